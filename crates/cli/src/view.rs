//! What `aether run` shows: a live view in a terminal, plain lines elsewhere.

use crate::say;
use aether_cluster::{ClusterNode, ClusterStatus, EventLog, NodeStatus, WorldState, WorldStatus};
use aether_scripting::abi::HostGroup;
use aether_types::counted;
use aether_world_runtime::{ScriptState, ScriptStatus};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};
use std::io;
use std::time::{Duration, Instant};

/// Somewhere to show a node.
pub(crate) trait View {
    /// Show it. `true`: the user wants to stop.
    fn show(&mut self, status: &NodeStatus, cluster: Option<&ClusterStatus>, events: &EventLog) -> io::Result<bool>;
}

fn state_text(state: &WorldState) -> String {
    match state {
        WorldState::Starting => "starting".into(),
        WorldState::Ticking => "ticking".into(),
        WorldState::Held => "held by disk".into(),
        WorldState::Asleep => "asleep".into(),
        WorldState::Restarting { cause } => format!("restarting: {cause}"),
        WorldState::Parked { cause } => format!("parked: {cause}"),
        WorldState::Stopped => "stopped".into(),
    }
}

fn script_state(state: &ScriptState) -> String {
    match state {
        ScriptState::Running => "running".into(),
        ScriptState::Paused => "paused".into(),
        ScriptState::Suspended => "suspended".into(),
        ScriptState::Restarting => "restarting".into(),
        ScriptState::Draining => "draining".into(),
        ScriptState::Finished { cause } => format!("finished: {cause}"),
        ScriptState::Parked { cause } => format!("parked: {cause}"),
    }
}

fn host_calls(script: &ScriptStatus) -> String {
    let calls = HostGroup::ALL.iter().zip(script.host_calls).filter(|(_, count)| *count > 0);
    calls.map(|(group, count)| format!("{}:{count}", group.name())).collect::<Vec<_>>().join(" ")
}

fn fuel_text(fuel: u64) -> String {
    match fuel {
        0..=9_999 => fuel.to_string(),
        10_000..=9_999_999 => format!("{:.1}k", fuel as f64 / 1e3),
        _ => format!("{:.1}M", fuel as f64 / 1e6),
    }
}

fn budget_percent(world: &WorldStatus) -> f64 {
    100.0 * world.tick_p50_us / world.budget_us.max(1.0)
}

/// Scripts that say most: those in trouble first, then by fuel.
fn ranked(world: &WorldStatus) -> Vec<&ScriptStatus> {
    let mut scripts: Vec<_> = world.scripts.iter().collect();
    scripts.sort_by_key(|script| (script.state == ScriptState::Running, std::cmp::Reverse(script.fuel)));
    scripts
}

/// One line a world and second, and the events.
pub(crate) struct Lines {
    json: bool,
    last: Option<Instant>,
    seen: u64,
}

impl Lines {
    pub(crate) fn new(json: bool) -> Lines {
        Lines { json, last: None, seen: 0 }
    }
}

/// A node's status and its cluster's, for programs.
#[derive(serde::Serialize)]
struct JsonLine<'a> {
    name: &'a str,
    worlds: &'a [WorldStatus],
    cluster: Option<&'a ClusterStatus>,
}

/// A cluster in a line.
fn cluster_text(cluster: &ClusterStatus) -> String {
    let node = |node: &ClusterNode| format!("{} {} {}", node.name, node.state, counted(node.worlds, "world"));
    let living: Vec<_> = cluster.nodes.iter().filter(|node| node.state != "dead").map(node).collect();
    format!("cluster {}: {}", cluster.name, living.join(", "))
}

impl View for Lines {
    fn show(&mut self, status: &NodeStatus, cluster: Option<&ClusterStatus>, events: &EventLog) -> io::Result<bool> {
        let (new, seen) = events.since(self.seen);
        self.seen = seen;
        if !self.json {
            new.iter().for_each(|event| say(&format!("  {event}")));
        }
        if self.last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            return Ok(false);
        }
        self.last = Some(Instant::now());
        if self.json {
            let line = JsonLine { name: &status.name, worlds: &status.worlds, cluster };
            say(&serde_json::to_string(&line).map_err(io::Error::other)?);
            return Ok(false);
        }
        if let Some(cluster) = cluster {
            say(&cluster_text(cluster));
        }
        for world in status.worlds.iter().filter(|world| world.state != WorldState::Starting) {
            say(&format!(
                "{:<12} {} tick {:>6}  p50 {:>7.1} us  p99 {:>7.1} us  budget {:>5.1}%  engine {:>6.1} us  run {:>5}  deferred {:>4}  paused {}  suspended {}  parked {}  entities {}",
                world.name,
                state_text(&world.state),
                world.tick,
                world.tick_p50_us,
                world.tick_p99_us,
                budget_percent(world),
                world.engine_us,
                world.turns,
                world.deferred,
                world.paused,
                world.suspended,
                world.parked,
                world.host.entities,
            ));
            for script in ranked(world).into_iter().take(4) {
                say(&format!(
                    "    {:<12} v{} {:<10} fuel/s {:>8}  {:>8.2} us/turn  pauses {:>2}  deferred {:>3}  {}",
                    script.name,
                    script.version,
                    script_state(&script.state),
                    fuel_text(script.fuel),
                    script.cost_ns / 1e3,
                    script.pauses,
                    script.deferrals,
                    host_calls(script)
                ));
            }
        }
        Ok(false)
    }
}

/// The live view.
pub(crate) struct Terminal {
    terminal: ratatui::DefaultTerminal,
    selected: usize,
    lines: Vec<String>,
    seen: u64,
    dashboard: Option<String>,
}

/// Event lines kept on the screen.
const LINES: usize = 200;

impl Terminal {
    /// `dashboard`: the address of a better view.
    pub(crate) fn open(dashboard: Option<String>) -> io::Result<Terminal> {
        Ok(Terminal { terminal: ratatui::try_init()?, selected: 0, lines: Vec::new(), seen: 0, dashboard })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

impl View for Terminal {
    fn show(&mut self, status: &NodeStatus, cluster: Option<&ClusterStatus>, events: &EventLog) -> io::Result<bool> {
        let (new, seen) = events.since(self.seen);
        self.seen = seen;
        self.lines.extend(new.iter().map(ToString::to_string));
        let excess = self.lines.len().saturating_sub(LINES);
        self.lines.drain(..excess);
        // In this mode the terminal sends no SIGINT: Ctrl-C is a key.
        while event::poll(Duration::ZERO)? {
            let Event::Key(key) = event::read()? else { continue };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            match key.code {
                KeyCode::Char('q') => return Ok(true),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(true),
                KeyCode::Down | KeyCode::Char('j') => self.selected += 1,
                KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
                _ => {}
            }
        }
        self.selected = self.selected.min(status.worlds.len().saturating_sub(1));
        let (selected, lines) = (self.selected, &self.lines);
        let mut title = cluster.map_or_else(|| " events ".to_owned(), |cluster| format!(" {} ", cluster_text(cluster)));
        if let Some(dashboard) = &self.dashboard {
            title += &format!("- dashboard at {dashboard} ");
        }
        self.terminal.draw(|frame| draw(frame, status, selected, title, lines))?;
        Ok(false)
    }
}

fn header(names: &[&'static str]) -> Row<'static> {
    Row::new(names.iter().map(|name| Cell::from(*name)).collect::<Vec<_>>()).style(Style::new().add_modifier(Modifier::BOLD))
}

fn draw(frame: &mut ratatui::Frame<'_>, status: &NodeStatus, selected: usize, title: String, lines: &[String]) {
    let worlds_height = (status.worlds.len() as u16 + 3).min(frame.area().height / 3).max(4);
    let [worlds, scripts, log] =
        Layout::vertical([Constraint::Length(worlds_height), Constraint::Fill(2), Constraint::Fill(1)]).areas(frame.area());
    frame.render_widget(worlds_table(status, selected, worlds.height), worlds);
    if let Some(world) = status.worlds.get(selected) {
        frame.render_widget(scripts_table(world), scripts);
    }
    let fit = log.height.saturating_sub(2) as usize;
    let text = lines[lines.len().saturating_sub(fit)..].join("\n");
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(title)), log);
}

fn worlds_table(status: &NodeStatus, selected: usize, height: u16) -> Table<'static> {
    let fit = height.saturating_sub(3) as usize;
    let skip = selected.saturating_sub(fit.saturating_sub(1));
    let rows = status.worlds.iter().enumerate().skip(skip).map(|(i, world)| {
        let percent = budget_percent(world);
        let colour = if percent > 90.0 || world.state != WorldState::Ticking { Color::Red } else { Color::Reset };
        let cells = [
            world.name.clone(),
            state_text(&world.state),
            world.tick.to_string(),
            format!("{:.1}", world.tick_p50_us),
            format!("{:.1}", world.tick_p99_us),
            format!("{percent:.1}%"),
            format!("{:.1}", world.engine_us),
            world.turns.to_string(),
            world.deferred.to_string(),
            world.paused.to_string(),
            world.suspended.to_string(),
            world.parked.to_string(),
            world.missed_ticks.to_string(),
            world.host.entities.to_string(),
        ];
        let row = Row::new(cells.map(Cell::from)).style(Style::new().fg(colour));
        if i == selected { row.style(Style::new().fg(colour).add_modifier(Modifier::REVERSED)) } else { row }
    });
    let widths = [14, 12, 8, 9, 9, 7, 9, 8, 8, 6, 9, 6, 6, 8].map(Constraint::Length);
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(header(&[
            "world",
            "state",
            "tick",
            "p50 us",
            "p99 us",
            "budget",
            "engine",
            "run/s",
            "defer/s",
            "paused",
            "suspended",
            "parked",
            "missed",
            "entities",
        ]))
        .block(Block::bordered().title(format!(" node {} - up/down: world, q: save and stop ", status.name)))
}

fn scripts_table(world: &WorldStatus) -> Table<'static> {
    let rows = ranked(world).into_iter().map(|script| {
        let colour = match script.state {
            ScriptState::Running | ScriptState::Finished { .. } => Color::Reset,
            ScriptState::Paused | ScriptState::Draining | ScriptState::Restarting => Color::Yellow,
            ScriptState::Suspended | ScriptState::Parked { .. } => Color::Red,
        };
        let cells = [
            script.name.clone(),
            format!("{} v{}", script.script, script.version),
            script_state(&script.state),
            script.priority.to_string(),
            fuel_text(script.fuel),
            format!("{:.2}", script.cost_ns / 1e3),
            script.turns.to_string(),
            script.pauses.to_string(),
            script.deferrals.to_string(),
            format!("{}", script.memory_bytes >> 10),
            script.restarts.to_string(),
            host_calls(script),
        ];
        Row::new(cells.map(Cell::from)).style(Style::new().fg(colour))
    });
    let widths = [14, 14, 12, 8, 8, 8, 6, 6, 7, 7, 8].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(header(&[
            "script",
            "version",
            "state",
            "priority",
            "fuel/s",
            "us/turn",
            "run/s",
            "pause",
            "defer/s",
            "KiB",
            "restarts",
            "host calls/s",
        ]))
        .block(Block::bordered().title(format!(" {} ", world.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal as Ratatui;
    use ratatui::backend::TestBackend;

    #[test]
    fn the_view_shows_the_numbers_that_the_issue_names() {
        let script = ScriptStatus {
            name: "greedy".into(),
            script: aether_scripting::ScriptId::new("greedy").unwrap(),
            version: aether_scripting::Version(3),
            state: ScriptState::Paused,
            priority: 10,
            fuel: 123_456,
            turns: 20,
            pauses: 19,
            deferred_ticks: 0,
            deferrals: 1,
            cost_ns: 2_500.0,
            host_calls: [1, 0, 0, 0, 2, 0, 7],
            refused: [0; 7],
            memory_bytes: 65_536,
            restarts: 0,
        };
        let world = WorldStatus {
            name: "town".into(),
            state: WorldState::Ticking,
            tick_p50_us: 400.0,
            tick_p99_us: 900.5,
            budget_us: 8_000.0,
            deferred: 4,
            paused: 1,
            scripts: std::sync::Arc::new(vec![script]),
            ..WorldStatus::default()
        };
        let status = NodeStatus { name: "dev".into(), worlds: vec![world], ..NodeStatus::default() };
        let mut terminal = Ratatui::new(TestBackend::new(170, 30)).unwrap();
        terminal.draw(|frame| draw(frame, &status, 0, " events ".to_owned(), &["town/greedy info: hello".to_owned()])).unwrap();
        let screen: String = terminal.backend().buffer().content().iter().map(|cell| cell.symbol()).collect();
        for wanted in
            ["town", "400.0", "900.5", "5.0%", "greedy v3", "paused", "123.5k", "2.50", "entity:1 network:2 script:7", "hello"]
        {
            assert!(screen.contains(wanted), "{wanted} in {screen}");
        }
    }
}
