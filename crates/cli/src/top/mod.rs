//! `aether top`: a whole cluster in a terminal, or once as text or JSON.
//!
//! Start with [`run`]; what is known is gathered in [`gather`], drawn in [`draw`]. Keys change a [`Choice`], a plain value. Not here: one
//! node's live view (`view.rs`, `aether run`).

mod draw;
mod gather;

use crate::operate::NodeArgs;
use crate::{CommandResult, say};
use aether_admin::shapes::WorldRow;
use clap::Args;
use gather::{Cluster, Snapshot};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Between two looks at the keys.
const FRAME: Duration = Duration::from_millis(100);
/// An answer that is so late is said to be.
const LATE: Duration = Duration::from_secs(5);

/// Arguments of `aether top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Print it once and end. Always so when standard output is not a terminal.
    #[arg(long)]
    once: bool,
    /// Only worlds whose names contain this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// The order of worlds.
    #[arg(long, default_value = "load")]
    sort: Order,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Order {
    /// What takes the largest part of its budget; of other nodes' worlds, of a core.
    Load,
    /// What defers most.
    Defer,
    /// What skipped most ticks.
    Missed,
    /// The longest ticks.
    P99,
    /// By name.
    Name,
}

impl Order {
    fn next(self) -> Order {
        match self {
            Order::Load => Order::Defer,
            Order::Defer => Order::Missed,
            Order::Missed => Order::P99,
            Order::P99 => Order::Name,
            Order::Name => Order::Load,
        }
    }
}

/// What the user wants to see.
#[derive(Debug, Clone)]
struct Choice {
    order: Order,
    filter: String,
    /// Only worlds in trouble.
    trouble: bool,
    /// Letters go into the filter.
    typing: bool,
    selected: usize,
    /// The world whose scripts are shown.
    open: Option<String>,
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    Quit,
}

impl Choice {
    /// `worlds`: those shown now, in their order.
    fn key(&mut self, key: KeyEvent, worlds: &[&WorldRow]) -> Wish {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Wish::Quit;
        }
        if self.typing {
            match key.code {
                KeyCode::Enter | KeyCode::Esc => self.typing = false,
                KeyCode::Backspace => drop(self.filter.pop()),
                // A name has 47 at most.
                KeyCode::Char(letter) if self.filter.len() < 47 => self.filter.push(letter.to_ascii_lowercase()),
                _ => {}
            }
            return Wish::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc if self.open.is_some() => self.open = None,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('t') => self.trouble = !self.trouble,
            KeyCode::Down | KeyCode::Char('j') => self.selected += 1,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected += 20,
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(20),
            KeyCode::Home => self.selected = 0,
            KeyCode::Enter => self.open = worlds.get(self.selected).map(|world| world.name.clone()),
            _ => {}
        }
        self.selected = self.selected.min(worlds.len().saturating_sub(1));
        Wish::Nothing
    }

    /// The worlds that are shown, in their order.
    fn worlds<'a>(&self, snapshot: &'a Snapshot) -> Vec<&'a WorldRow> {
        let wanted = |world: &&WorldRow| world.name.contains(&self.filter) && (!self.trouble || in_trouble(world));
        let mut worlds: Vec<_> = snapshot.worlds.iter().filter(wanted).collect();
        worlds.sort_by(|a, b| {
            let by = match self.order {
                Order::Load => (b.utilisation, b.load).partial_cmp(&(a.utilisation, a.load)),
                Order::Defer => Some(b.deferred.cmp(&a.deferred)),
                Order::Missed => Some(b.missed_ticks.cmp(&a.missed_ticks)),
                Order::P99 => Some(b.tick_p99_us.total_cmp(&a.tick_p99_us)),
                Order::Name => None,
            };
            by.unwrap_or(std::cmp::Ordering::Equal).then_with(|| a.name.cmp(&b.name))
        });
        worlds
    }
}

fn in_trouble(world: &WorldRow) -> bool {
    matches!(world.state.as_str(), "restarting" | "parked" | "held" | "unowned") || world.suspended > 0 || world.parked > 0
}

pub(crate) fn run(args: &TopArgs, node: &NodeArgs) -> CommandResult {
    let cluster = Cluster::new(node)?;
    let mut choice =
        Choice { order: args.sort, filter: args.filter.clone(), trouble: false, typing: false, selected: 0, open: None };
    // Before the screen is taken: who cannot be asked is an error in plain text.
    let snapshot = cluster.look()?;
    if args.once || node.is_json() || !std::io::stdout().is_terminal() {
        let worlds = choice.worlds(&snapshot);
        if node.is_json() {
            let answer = serde_json::json!({
                "cluster": snapshot.cluster, "node": snapshot.node, "nodes": snapshot.nodes, "worlds": worlds, "silent": snapshot.silent,
                "warnings": snapshot.warnings,
            });
            say(&serde_json::to_string(&answer)?);
        } else {
            draw::lines(&snapshot, &worlds).iter().for_each(|line| say(line));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut terminal = ratatui::try_init()?;
    let shown = live(&mut terminal, cluster, &mut choice, snapshot, Duration::from_secs(args.every));
    ratatui::restore();
    shown
}

/// What was seen, or why nothing was; and the world that is open.
type Seen = (Result<Snapshot, String>, Option<Value>);

/// Looks for somebody who says which world is open. Beside the screen: a node that hangs must not keep the user from ending.
fn looking(cluster: Cluster, wanted: &Receiver<Option<String>>, seen: &Sender<Seen>) {
    while let Ok(open) = wanted.recv() {
        let snapshot = cluster.look();
        let world = open.zip(snapshot.as_ref().ok()).and_then(|(name, snapshot)| cluster.world(&name, snapshot));
        if seen.send((snapshot.map_err(|error| error.to_string()), world)).is_err() {
            return;
        }
    }
}

fn live(
    terminal: &mut ratatui::DefaultTerminal,
    cluster: Cluster,
    choice: &mut Choice,
    mut snapshot: Snapshot,
    every: Duration,
) -> CommandResult {
    let (ask, wanted) = channel();
    let (told, seen) = channel();
    // It ends with the process: it may wait for an answer.
    std::thread::Builder::new().name("top".into()).spawn(move || looking(cluster, &wanted, &told))?;
    let (mut looked, mut waits, mut again) = (Instant::now(), false, false);
    let (mut error, mut world) = (None, None);
    loop {
        if let Ok((answer, open)) = seen.try_recv() {
            waits = false;
            world = open;
            // A node that is away for a moment is no reason to end: what was seen last stays, with the reason.
            match answer {
                Ok(now) => (snapshot, error) = (now, None),
                Err(failed) => error = Some(failed),
            }
        }
        if !waits && (again || looked.elapsed() >= every) {
            (waits, again, looked) = (true, false, Instant::now());
            let _ = ask.send(choice.open.clone());
        }
        let worlds = choice.worlds(&snapshot);
        choice.selected = choice.selected.min(worlds.len().saturating_sub(1));
        let late = waits && looked.elapsed() > LATE;
        let words = if late { Some("the node does not answer; what you see is old") } else { error.as_deref() };
        terminal.draw(|frame| draw::screen(frame, &snapshot, &worlds, choice, world.as_ref(), words))?;
        if event::poll(FRAME)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let before = choice.open.clone();
            if choice.key(key, &worlds) == Wish::Quit {
                return Ok(ExitCode::SUCCESS);
            }
            if choice.open != before {
                (world, again) = (None, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_admin::shapes::{EventView, NodeView};

    pub(super) fn snapshot() -> Snapshot {
        let world = |name: &str, utilisation, deferred, missed_ticks, parked| WorldRow {
            name: name.into(),
            node: Some("a".into()),
            state: "ticking".into(),
            utilisation,
            deferred,
            missed_ticks,
            parked,
            ..WorldRow::default()
        };
        Snapshot {
            cluster: Some("three".into()),
            node: "a".into(),
            nodes: vec![NodeView { name: "a".into(), state: "up".into(), worlds: 3, capacity: 2.0, ..NodeView::default() }],
            worlds: vec![world("inn", 0.2, 9, 0, 0), world("town", 0.7, 0, 1, 1), world("yard", 0.1, 1, 5, 0)],
            silent: vec!["b".into()],
            warnings: vec![EventView {
                seq: 7,
                time_ms: 0,
                kind: "reload".into(),
                level: 1,
                world: None,
                script: Some("door".into()),
                text: "version 3 rolled back: it trapped".into(),
            }],
        }
    }

    pub(super) fn choice() -> Choice {
        Choice { order: Order::Load, filter: String::new(), trouble: false, typing: false, selected: 0, open: None }
    }

    fn press(choice: &mut Choice, snapshot: &Snapshot, codes: impl IntoIterator<Item = KeyCode>) {
        for code in codes {
            let worlds = choice.worlds(snapshot);
            choice.key(KeyEvent::new(code, KeyModifiers::NONE), &worlds);
        }
    }

    fn names(choice: &Choice, snapshot: &Snapshot) -> Vec<String> {
        choice.worlds(snapshot).iter().map(|world| world.name.clone()).collect()
    }

    #[test]
    fn worlds_come_in_the_order_that_was_asked_for() {
        let (snapshot, mut choice) = (snapshot(), choice());
        for wanted in [["town", "inn", "yard"], ["inn", "yard", "town"], ["yard", "town", "inn"]] {
            assert_eq!(names(&choice, &snapshot), wanted, "{:?}", choice.order);
            press(&mut choice, &snapshot, [KeyCode::Char('s')]);
        }
    }

    #[test]
    fn keys_filter_choose_and_open_a_world() {
        let (snapshot, mut choice) = (snapshot(), choice());
        press(&mut choice, &snapshot, [KeyCode::Char('t')]);
        assert_eq!(names(&choice, &snapshot), ["town"]);
        press(&mut choice, &snapshot, [KeyCode::Char('t'), KeyCode::Char('/'), KeyCode::Char('Y'), KeyCode::Char('q')]);
        assert_eq!((choice.filter.as_str(), names(&choice, &snapshot).len()), ("yq", 0));
        press(&mut choice, &snapshot, [KeyCode::Backspace, KeyCode::Enter, KeyCode::Down, KeyCode::Enter]);
        assert_eq!(choice.open.as_deref(), Some("yard"));
        press(&mut choice, &snapshot, [KeyCode::Esc, KeyCode::Esc]);
        assert_eq!((choice.open.as_deref(), choice.filter.as_str()), (None, ""));
        assert_eq!(choice.key(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE), &[]), Wish::Quit);
    }
}
