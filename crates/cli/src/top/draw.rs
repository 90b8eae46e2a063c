//! A cluster as lines, and as a screen.

use super::gather::Snapshot;
use super::{Choice, Order, in_trouble};
use aether_admin::rfc3339;
use aether_admin::shapes::{EventView, NodeView, WorldRow};
use aether_types::counted;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};
use serde_json::Value;

const NODE_COLUMNS: [(&str, u16); 6] =
    [("node", 14), ("state", 9), ("worlds", 7), ("load", 14), ("lease ms", 9), ("address", 24)];
const WORLD_COLUMNS: [(&str, u16); 10] = [
    ("world", 20),
    ("node", 12),
    ("state", 11),
    ("budget", 8),
    ("p99 us", 9),
    ("defer/s", 8),
    ("missed", 8),
    ("scripts", 8),
    ("stopped", 8),
    ("cores", 8),
];

fn node_cells(node: &NodeView) -> [String; 6] {
    [
        node.name.clone(),
        node.state.clone(),
        node.worlds.to_string(),
        format!("{:.2} of {:.0}", node.load, node.capacity),
        node.lease_left_ms.to_string(),
        node.address.clone(),
    ]
}

/// Of a world of a node that could not be asked only its load is known.
fn world_cells(world: &WorldRow) -> [String; 10] {
    let known = |text: String| if world.state == "elsewhere" { "-".to_owned() } else { text };
    [
        world.name.clone(),
        world.node.clone().unwrap_or_else(|| "nobody".to_owned()),
        world.state.clone(),
        known(format!("{:.1}%", world.utilisation * 100.0)),
        known(format!("{:.1}", world.tick_p99_us)),
        known(world.deferred.to_string()),
        known(world.missed_ticks.to_string()),
        known(world.scripts.to_string()),
        known((world.suspended + world.parked).to_string()),
        format!("{:.3}", world.load),
    ]
}

fn line<const N: usize>(columns: &[(&str, u16); N], cells: &[String; N]) -> String {
    let padded = columns.iter().zip(cells).map(|((_, width), cell)| format!("{cell:<width$}", width = usize::from(*width)));
    padded.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// The whole as lines.
pub(super) fn lines(snapshot: &Snapshot, worlds: &[&WorldRow]) -> Vec<String> {
    let mut lines = vec![title(snapshot)];
    lines.push(line(&NODE_COLUMNS, &NODE_COLUMNS.map(|(name, _)| name.to_owned())));
    lines.extend(snapshot.nodes.iter().map(|node| line(&NODE_COLUMNS, &node_cells(node))));
    lines.push(String::new());
    lines.push(line(&WORLD_COLUMNS, &WORLD_COLUMNS.map(|(name, _)| name.to_owned())));
    lines.extend(worlds.iter().map(|world| line(&WORLD_COLUMNS, &world_cells(world))));
    if !snapshot.warnings.is_empty() {
        lines.extend([String::new(), format!("last warnings of {}", snapshot.node)]);
        lines.extend(snapshot.warnings.iter().map(warning));
    }
    lines
}

/// When, where, what: as `aether logs` says it, without its colours.
fn warning(event: &EventView) -> String {
    let place = match (&event.world, &event.script) {
        (Some(world), Some(script)) => format!("{world}/{script}"),
        (Some(world), None) => world.clone(),
        (None, Some(script)) => format!("{} of {script}", event.kind),
        (None, None) => event.kind.clone(),
    };
    format!("{} {place}: {}", rfc3339(event.time_ms), event.text)
}

fn title(snapshot: &Snapshot) -> String {
    let ticking = snapshot.worlds.iter().filter(|world| world.state == "ticking").count();
    let what = snapshot.cluster.as_ref().map_or_else(|| format!("node {}", snapshot.node), |name| format!("cluster {name}"));
    let silent = match snapshot.silent.as_slice() {
        [] => String::new(),
        silent => format!(", of {} only the load is known here", silent.join(", ")),
    };
    format!("{what}: {}, {ticking} seen ticking{silent}", counted(snapshot.worlds.len(), "world"))
}

fn table<'a, const N: usize>(columns: &[(&'static str, u16); N], rows: impl Iterator<Item = ([String; N], Style)>) -> Table<'a> {
    let rows = rows.map(|(cells, style)| Row::new(cells.map(Cell::from)).style(style));
    let head = Row::new(columns.map(|(name, _)| Cell::from(name))).style(Style::new().add_modifier(Modifier::BOLD));
    Table::new(rows.collect::<Vec<_>>(), columns.map(|(_, width)| Constraint::Length(width))).header(head)
}

/// The whole as a screen.
pub(super) fn screen(
    frame: &mut Frame<'_>,
    snapshot: &Snapshot,
    worlds: &[&WorldRow],
    choice: &Choice,
    open: Option<&Value>,
    error: Option<&str>,
) {
    let nodes_height = (snapshot.nodes.len() as u16 + 3).min(frame.area().height / 3);
    // On a low screen the worlds matter more.
    let warnings_height = if snapshot.warnings.is_empty() || frame.area().height < 20 { 0 } else { snapshot.warnings.len() + 2 };
    let [nodes, list, scripts, warnings, keys] = Layout::vertical([
        Constraint::Length(nodes_height),
        Constraint::Fill(1),
        if choice.open.is_some() { Constraint::Fill(1) } else { Constraint::Length(0) },
        Constraint::Length(warnings_height as u16),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let node_rows = snapshot.nodes.iter().map(|node| {
        let colour = match node.state.as_str() {
            "up" => Color::Reset,
            "draining" => Color::Yellow,
            _ => Color::Red,
        };
        (node_cells(node), Style::new().fg(colour))
    });
    frame.render_widget(table(&NODE_COLUMNS, node_rows).block(Block::bordered().title(format!(" {} ", title(snapshot)))), nodes);
    let fit = usize::from(list.height.saturating_sub(3));
    let skip = choice.selected.saturating_sub(fit.saturating_sub(1));
    let rows = worlds.iter().enumerate().skip(skip).take(fit).map(|(i, world)| {
        let colour = if in_trouble(world) {
            Color::Red
        } else if world.utilisation > 0.9 {
            Color::Yellow
        } else {
            Color::Reset
        };
        let style = Style::new().fg(colour);
        (world_cells(world), if i == choice.selected { style.add_modifier(Modifier::REVERSED) } else { style })
    });
    let order = match choice.order {
        Order::Load => "load",
        Order::Defer => "deferrals",
        Order::Missed => "missed ticks",
        Order::P99 => "p99",
        Order::Name => "name",
    };
    let mut head = format!(" {} of {} worlds by {order}", worlds.len(), snapshot.worlds.len());
    if choice.trouble {
        head += ", in trouble";
    }
    if choice.typing || !choice.filter.is_empty() {
        head += &format!(", with {:?}{}", choice.filter, if choice.typing { "_" } else { "" });
    }
    frame.render_widget(table(&WORLD_COLUMNS, rows).block(Block::bordered().title(head + " ")), list);
    if let Some(name) = &choice.open {
        frame.render_widget(scripts_of(name, open), scripts);
    }
    if warnings_height > 0 {
        let text = snapshot.warnings.iter().map(warning).collect::<Vec<_>>().join("\n");
        let block = Block::bordered().title(format!(" last warnings of {} ", snapshot.node));
        frame.render_widget(Paragraph::new(text).block(block), warnings);
    }
    let keys_text = match error {
        Some(error) => format!(" {error}"),
        None => " arrows: world   enter: its scripts   esc: back   s: order   t: in trouble   /: filter   q: end".to_owned(),
    };
    let style = if error.is_some() { Style::new().fg(Color::Red) } else { Style::new().add_modifier(Modifier::DIM) };
    frame.render_widget(Paragraph::new(keys_text).style(style), keys);
}

fn scripts_of<'a>(name: &str, world: Option<&Value>) -> Table<'a> {
    let columns = [
        ("script", 20),
        ("of", 16),
        ("state", 12),
        ("fuel/s", 12),
        ("us/turn", 9),
        ("turns/s", 8),
        ("defer/s", 8),
        ("restarts", 9),
        ("refused", 8),
        ("why", 60),
    ];
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let scripts = world.and_then(|world| world["scripts"].as_array()).map_or(&[][..], Vec::as_slice);
    let rows = scripts.iter().map(|script| {
        let state = text(&script["state"]["state"]);
        let colour = match state.as_str() {
            "running" | "finished" => Color::Reset,
            "suspended" | "parked" => Color::Red,
            _ => Color::Yellow,
        };
        let refused: u64 = script["refused"].as_array().into_iter().flatten().filter_map(Value::as_u64).sum();
        let cells = [
            text(&script["name"]),
            format!("{} v{}", text(&script["script"]), script["version"]),
            state,
            script["fuel"].to_string(),
            format!("{:.2}", script["cost_ns"].as_f64().unwrap_or(0.0) / 1e3),
            script["turns"].to_string(),
            script["deferrals"].to_string(),
            script["restarts"].to_string(),
            refused.to_string(),
            text(&script["state"]["cause"]),
        ];
        (cells, Style::new().fg(colour))
    });
    let head = if world.is_some() { format!(" scripts of {name} ") } else { format!(" {name}: ask on the machine of its node ") };
    table(&columns, rows).block(Block::bordered().title(head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::tests::{choice, snapshot};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn the_screen_shows_nodes_worlds_and_an_open_worlds_scripts() {
        let snapshot = snapshot();
        let choice = Choice { open: Some("town".into()), ..choice() };
        let worlds = choice.worlds(&snapshot);
        let script = serde_json::json!({ "name": "thief", "script": "thief", "version": 3, "fuel": 1, "turns": 2, "deferrals": 0,
            "restarts": 6, "cost_ns": 1500.0, "refused": [0, 4, 0, 0, 0, 0, 1], "state": { "state": "parked", "cause": "trapped" } });
        let open = serde_json::json!({ "scripts": [script] });
        let mut terminal = Terminal::new(TestBackend::new(200, 30)).unwrap();
        terminal.draw(|frame| screen(frame, &snapshot, &worlds, &choice, Some(&open), None)).unwrap();
        let text = terminal.backend().to_string();
        for wanted in [
            "cluster three: 3 worlds",
            "of b only the load",
            "3 of 3 worlds by load",
            "70.0%",
            "thief v3",
            "trapped",
            "1.50",
            "/: filter",
            "reload of door: version 3 rolled back",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
    }

    #[test]
    fn no_terminal_is_too_small_for_it() {
        let snapshot = snapshot();
        let choice = Choice { selected: 2, open: Some("town".into()), ..choice() };
        for (width, height) in [(1, 1), (10, 3), (40, 8), (300, 4)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| screen(frame, &snapshot, &choice.worlds(&snapshot), &choice, None, Some("away"))).unwrap();
        }
    }

    #[test]
    fn lines_have_a_head_and_a_line_for_each() {
        let snapshot = snapshot();
        let lines = lines(&snapshot, &choice().worlds(&snapshot));
        assert_eq!(lines.len(), 1 + 2 + 1 + 1 + 3 + 3);
        assert!(lines[5].starts_with("town ") && lines[5].contains("70.0%"), "{lines:?}");
    }
}
