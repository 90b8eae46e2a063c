//! The rules that every plan keeps, over random clusters.

use super::*;
use proptest::prelude::*;
use std::cmp::Reverse;

fn node(name: &str, capacity: f64) -> NodeInput {
    NodeInput { name: name.into(), capacity, worlds_max: 100, draining: false, labels: BTreeSet::new() }
}

/// Worlds w00, w01 and so on, of so many hundredths of a CPU, on one node or on none.
fn worlds(loads: &[u32], current: Option<&str>) -> Vec<WorldInput> {
    let world = |(index, load): (usize, &u32)| WorldInput {
        name: format!("w{index:02}"),
        load: f64::from(*load) / 100.0,
        current: current.map(String::from),
        pinned: None,
        requires: BTreeSet::new(),
        with: None,
        apart: None,
    };
    loads.iter().enumerate().map(world).collect()
}

/// Plans and carries it out.
fn follow(nodes: &[NodeInput], worlds: &mut [WorldInput], rules: &Rules) -> Plan {
    let plan = solve(nodes, worlds, rules);
    for step in &plan.moves {
        let world = worlds.iter_mut().find(|world| world.name == step.world).unwrap();
        assert_eq!(world.current, step.from);
        world.current = Some(step.to.clone());
    }
    plan
}

fn at<'a>(worlds: &'a [WorldInput], node: &str) -> Vec<&'a WorldInput> {
    worlds.iter().filter(|world| world.current.as_deref() == Some(node)).collect()
}

fn rebalance(moves_max: usize) -> Rules {
    Rules { moves_max, ..Rules::default() }
}

fn some(letters: &'static str) -> impl Strategy<Value = BTreeSet<String>> {
    proptest::sample::subsequence(letters.chars().map(String::from).collect::<Vec<_>>(), 0..=letters.len())
        .prop_map(|labels| labels.into_iter().collect())
}

fn any_node() -> impl Strategy<Value = NodeInput> {
    (1..5u32, 0..9u32, proptest::bool::weighted(0.15), some("ab")).prop_map(|(capacity, worlds_max, draining, labels)| {
        NodeInput { name: String::new(), capacity: f64::from(capacity), worlds_max, draining, labels }
    })
}

fn any_world() -> impl Strategy<Value = WorldInput> {
    // Nodes are n0 to n5 at most: n6 and n7 are always gone.
    let node = |part| proptest::option::weighted(part, (0..8u32).prop_map(|index| format!("n{index}")));
    let group = || proptest::option::weighted(0.3, (0..3u32).prop_map(|index| format!("g{index}")));
    let requires = prop_oneof![3 => Just(BTreeSet::new()), 1 => some("ab")];
    (0..80u32, node(0.7), node(0.15), requires, group(), group()).prop_map(|(load, current, pinned, requires, with, apart)| {
        WorldInput { name: String::new(), load: f64::from(load) / 100.0, current, pinned, requires, with, apart }
    })
}

fn any_cluster() -> impl Strategy<Value = (Vec<NodeInput>, Vec<WorldInput>, Rules)> {
    let nodes = proptest::collection::vec(any_node(), 0..6);
    (nodes, proptest::collection::vec(any_world(), 0..30), 0..6usize).prop_map(|(mut nodes, mut worlds, moves_max)| {
        nodes.iter_mut().enumerate().for_each(|(index, node)| node.name = format!("n{index}"));
        worlds.iter_mut().enumerate().for_each(|(index, world)| world.name = format!("w{index:02}"));
        (nodes, worlds, Rules { moves_max, ..Rules::default() })
    })
}

fn names<T>(of: &[(String, T)]) -> BTreeSet<&str> {
    of.iter().map(|(name, _)| name.as_str()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn planning_comes_to_an_end_and_then_changes_nothing((nodes, mut worlds, rules) in any_cluster()) {
        let mut plan = follow(&nodes, &mut worlds, &rules);
        for _ in 0..100 {
            if !plan.cut_short || rules.moves_max == 0 {
                break;
            }
            plan = follow(&nodes, &mut worlds, &rules);
        }
        prop_assert!(!plan.cut_short || rules.moves_max == 0, "it goes on for ever");
        let again = solve(&nodes, &worlds, &rules);
        prop_assert_eq!((again.moves, again.unplaced, again.overloaded), (vec![], plan.unplaced, plan.overloaded));
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(((nodes, worlds, rules), (other_nodes, other_worlds)) in any_cluster().prop_flat_map(
        |cluster| (Just(cluster.clone()), (Just(cluster.0).prop_shuffle(), Just(cluster.1).prop_shuffle()))
    )) {
        prop_assert_eq!(solve(&nodes, &worlds, &rules), solve(&other_nodes, &other_worlds, &rules));
    }

    #[test]
    fn hard_rules_hold((nodes, mut worlds, rules) in any_cluster()) {
        let plan = follow(&nodes, &mut worlds, &rules);
        prop_assert!(plan.moves.iter().filter(|step| step.why == Why::Rebalance).count() <= rules.moves_max);
        let (out, pins_ignored) = (names(&plan.unplaced), names(&plan.pins_ignored));
        let may = |world: &WorldInput, node: &NodeInput| !node.draining && world.requires.is_subset(&node.labels);
        let (out, placed): (Vec<_>, Vec<_>) = worlds.into_iter().partition(|world| out.contains(&*world.name));
        for world in &placed {
            let find = |name: &Option<String>| nodes.iter().find(|node| Some(&node.name) == name.as_ref());
            prop_assert!(find(&world.current).is_some_and(|node| may(world, node)));
            let pinned = find(&world.pinned).is_some_and(|node| !node.draining) && !pins_ignored.contains(&*world.name);
            prop_assert!(!pinned || world.pinned == world.current);
        }
        for node in &nodes {
            let (there, worlds_max) = (at(&placed, &node.name).len(), node.worlds_max as usize);
            prop_assert!(there <= worlds_max);
            prop_assert!(there == worlds_max || !out.iter().any(|world| may(world, node)), "a world is left out, {} has room", node.name);
        }
    }

    #[test]
    fn no_node_is_overloaded_where_first_fit_finds_a_way(
        capacities in proptest::collection::vec(1..5u32, 1..6), mut loads in proptest::collection::vec(1..150u32, 0..30)
    ) {
        let nodes: Vec<_> = capacities.iter().enumerate().map(|(index, c)| node(&format!("n{index}"), f64::from(*c))).collect();
        let plan = solve(&nodes, &worlds(&loads, None), &Rules::default());
        let mut left: Vec<u32> = capacities.iter().map(|capacity| capacity * 80).collect();
        loads.sort_by_key(|load| Reverse(*load));
        let possible = loads.iter().all(|load| left.iter_mut().find(|left| **left >= *load).map(|left| *left -= load).is_some());
        prop_assert!(plan.unplaced.is_empty() && (!possible || plan.overloaded.is_empty()), "{:?}", plan);
    }

    #[test]
    fn a_node_that_goes_away_moves_only_its_own_worlds((mut nodes, mut worlds, rules) in any_cluster()) {
        let before = (0..50).map(|_| follow(&nodes, &mut worlds, &rules)).last().unwrap();
        let gone = nodes.pop().map(|node| node.name);
        for step in solve(&nodes, &worlds, &rebalance(0)).moves {
            prop_assert!(step.from == gone || names(&before.unplaced).contains(&*step.world), "{:?}", step);
        }
    }

    #[test]
    fn draining_empties_a_node(loads in proptest::collection::vec(1..150u32, 1..30)) {
        let (mut nodes, mut worlds) = ([node("a", 1.0), node("b", 2.0), node("c", 3.0)], worlds(&loads, None));
        follow(&nodes, &mut worlds, &Rules::default());
        nodes[2].draining = true;
        let plan = follow(&nodes, &mut worlds, &rebalance(0));
        prop_assert!(plan.moves.iter().all(|step| step.why == Why::Draining) && at(&worlds, "c").is_empty());
    }

    #[test]
    fn jitter_after_rebalancing_moves_nothing(
        loads in proptest::collection::vec(1..20u32, 8..30), jitter in proptest::collection::vec(-2..=2i32, 30)
    ) {
        let (nodes, mut worlds) = ([node("a", 2.0), node("b", 2.0), node("c", 4.0)], worlds(&loads, Some("a")));
        prop_assume!(!follow(&nodes, &mut worlds, &rebalance(100)).moves.is_empty());
        worlds.iter_mut().zip(jitter).for_each(|(world, percent)| world.load *= 1.0 + f64::from(percent) / 100.0);
        prop_assert_eq!(solve(&nodes, &worlds, &Rules::default()).moves, vec![]);
    }

    #[test]
    fn nodes_no_further_apart_than_the_imbalance_are_left_alone(loads in proptest::collection::vec((1..30u32, 0..3usize), 0..30)) {
        let nodes = [node("a", 2.0), node("b", 2.0), node("c", 4.0)];
        let mut worlds = worlds(&loads.iter().map(|(load, _)| *load).collect::<Vec<_>>(), None);
        worlds.iter_mut().zip(&loads).for_each(|(world, (_, at))| world.current = Some(nodes[*at].name.clone()));
        let used = nodes.each_ref().map(|node| at(&worlds, &node.name).iter().map(|world| world.load).sum::<f64>() / node.capacity);
        let imbalance = used.into_iter().fold(0.0, f64::max) - used.into_iter().fold(f64::MAX, f64::min) + 1e-6;
        prop_assert_eq!(solve(&nodes, &worlds, &Rules { imbalance, ..Rules::default() }).moves, vec![]);
    }
}

#[test]
fn a_new_node_gets_its_share_a_few_moves_at_a_time() {
    let (nodes, mut worlds) = ([node("a", 1.0), node("b", 1.0)], worlds(&[5; 13], Some("a")));
    let plan = follow(&nodes, &mut worlds, &rebalance(4));
    assert_eq!((plan.moves.len(), plan.cut_short), (4, true));
    follow(&nodes, &mut worlds, &rebalance(4));
    // From 0.65 and 0 until they are no more than 0.1 apart.
    assert_eq!((at(&worlds, "a").len(), at(&worlds, "b").len()), (7, 6));
}

#[test]
fn worlds_of_an_affinity_group_follow_each_other_and_those_of_a_spread_group_do_not() {
    let (nodes, mut worlds) = ([node("a", 1.0), node("b", 1.0), node("c", 1.0)], worlds(&[10, 10, 10, 1, 1, 1], None));
    worlds[..3].iter_mut().for_each(|world| world.with = Some("city".into()));
    worlds[3..].iter_mut().for_each(|world| world.apart = Some("lobby".into()));
    worlds[1].pinned = Some("b".into());
    let plan = follow(&nodes, &mut worlds, &Rules::default());
    assert!(worlds[..3].iter().all(|world| world.current.as_deref() == Some("b")), "{plan:?}");
    assert_eq!(["a", "b", "c"].map(|node| at(&worlds[3..], node).len()), [1, 1, 1]);
    // Torn apart and crowded together by something else, they find back, a bounded number of moves a plan.
    worlds.iter_mut().zip(["a", "b", "c", "c", "c", "c"]).for_each(|(world, node)| world.current = Some(node.into()));
    let plans = [(); 4].map(|()| follow(&nodes, &mut worlds, &rebalance(1)).moves.len());
    assert_eq!((plans, at(&worlds[..3], "b").len()), ([1, 1, 1, 1], 3));
    assert_eq!(["a", "b", "c"].map(|node| at(&worlds[3..], node).len()), [1, 1, 1]);
}

#[test]
fn a_world_with_fewer_choices_chooses_first() {
    let (mut nodes, mut worlds) = ([node("a", 1.0), node("b", 1.0)], worlds(&[60, 30], None));
    nodes[0].labels.insert("gpu".into());
    worlds[1].requires.insert("gpu".into());
    follow(&nodes, &mut worlds, &Rules::default());
    assert_eq!((worlds[0].current.as_deref(), worlds[1].current.as_deref()), (Some("b"), Some("a")));
}

#[test]
fn an_overloaded_node_is_reported_and_a_world_without_a_node_says_why() {
    let (nodes, mut worlds) = ([node("a", 1.0)], worlds(&[90, 10], None));
    worlds[1].requires.insert("gpu".into());
    let plan = solve(&nodes, &worlds, &Rules::default());
    assert_eq!(plan.overloaded, [("a".to_string(), 0.9)]);
    assert_eq!(plan.unplaced, [("w01".to_string(), "no node that is not draining has all of the labels gpu".to_string())]);
}

#[test]
fn a_world_that_could_go_anywhere_makes_room_for_one_that_could_not() {
    let (mut nodes, mut worlds) = ([node("a", 1.0), node("b", 1.0)], worlds(&[10, 10], None));
    (nodes[0].worlds_max, worlds[0].current) = (1, Some("a".into()));
    nodes[0].labels.insert("gpu".into());
    worlds[1].requires.insert("gpu".into());
    let plan = follow(&nodes, &mut worlds, &Rules::default());
    assert_eq!(
        plan.moves.iter().map(|step| (&*step.to, step.why)).collect::<Vec<_>>(),
        [("a", Why::First), ("b", Why::Rebalance)]
    );
}
