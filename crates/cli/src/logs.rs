//! `aether logs`: what scripts wrote and what happened, from the node that is asked.
//!
//! A node keeps its last 4,096 events; older ones are gone, and the first line says so. Not here: a world's own record (`aether flight`).

use crate::operate::{NodeArgs, SCRIPTS_MAX, client};
use crate::style::{Paint, paint};
use crate::{CommandResult, is_said};
use aether_admin::{Client, ClientError, Request, rfc3339};
use clap::Args;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Between two questions of who follows.
const LOOK: Duration = Duration::from_millis(500);
/// As many as a node keeps.
const EVENTS_MAX: usize = 4_096;

/// Arguments of `aether logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Only of this world.
    world: Option<String>,
    /// Only of this script, by its name in the world.
    script: Option<String>,
    /// Go on with what happens, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    /// Only what happened in the last so long: 90s, 15m, 2h, 1d.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,
    /// Only what is at least this bad: error, warn, info, debug.
    #[arg(long, value_name = "LEVEL", default_value = "debug")]
    level: Level,
    /// Only this kind: log, script, overload, world, cluster or reload.
    #[arg(long)]
    kind: Option<String>,
    /// So many lines at most, the newest.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=EVENTS_MAX as i64))]
    lines: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// A number and its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time: a number and s, m, h or d, as in 15m");
    let (unit, number) = text.chars().last().zip(text.get(..text.len().saturating_sub(1))).ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(bad)
}

/// Values that go into a query: names are safe, what is no name matches nothing.
fn query_text(value: &str) -> Result<&str, String> {
    let safe = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if safe { Ok(value) } else { Err(format!("{value:?} is no name: a-z, 0-9, '-' and '_'")) }
}

fn filters(args: &LogsArgs, limit: usize) -> Result<String, String> {
    let mut filters = format!("limit={limit}&level={}", args.level as u8);
    for (field, value) in [("world", &args.world), ("script", &args.script), ("kind", &args.kind)] {
        if let Some(value) = value {
            filters += &format!("&{field}={}", query_text(value)?);
        }
    }
    Ok(filters)
}

pub(crate) fn run(args: &LogsArgs, node: &NodeArgs) -> CommandResult {
    let client = client(node)?;
    // One that does not exist, or is another node's, would be silent for ever.
    if let Some(world) = &args.world {
        let told = client.ask(&Request::World(format!("{}?scripts={SCRIPTS_MAX}", query_text(world)?)), &json!({}))?;
        if let Some(script) = &args.script {
            is_there(world, script, &told["scripts"])?;
        }
    }
    let from_ms = args.since.map_or(0, |since| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(since).as_millis() as u64
    });
    let paint = paint();
    let first = ask(&client, 0, filters(args, args.lines.into())?)?;
    let mut shown = show(&first, from_ms, node.is_json(), paint)?;
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    // Until nobody reads it any more.
    while let Some(seen) = shown {
        std::thread::sleep(LOOK);
        let more = ask(&client, seen, filters(args, EVENTS_MAX)?)?;
        let last = more["seq"].as_u64().unwrap_or(seen);
        if last < seen {
            // Numbers begin anew: it was started again.
            shown = Some(0);
            continue;
        }
        if more["missed"] == true {
            complain("some lines came faster than they could be read, and are gone");
        }
        shown = show(&more, from_ms, node.is_json(), paint)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a world has a script; if not, those that it has. One that is only being started says nothing yet.
fn is_there(world: &str, script: &str, scripts: &Value) -> Result<(), String> {
    const SHOWN: usize = 12;
    let names: Vec<_> = scripts.as_array().into_iter().flatten().filter_map(|script| script["name"].as_str()).collect();
    if names.is_empty() || names.contains(&script) {
        return Ok(());
    }
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more: `aether describe {world}` has them all"),
    };
    Err(format!("world {world} has no script {script}: it has {}{more}", names[..names.len().min(SHOWN)].join(", ")))
}

fn complain(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn ask(client: &Client, since: u64, filters: String) -> Result<Value, ClientError> {
    client.ask(&Request::Events { since, filters }, &json!({}))
}

/// Print the lines; gives the number of the newest event there is. `None`: nobody reads them.
fn show(answer: &Value, from_ms: u64, as_json: bool, paint: Paint) -> Result<Option<u64>, serde_json::Error> {
    for event in answer["events"].as_array().into_iter().flatten() {
        if event["time_ms"].as_u64().unwrap_or(0) < from_ms {
            continue;
        }
        if !is_said(&if as_json { serde_json::to_string(event)? } else { line(event, paint) }) {
            return Ok(None);
        }
    }
    Ok(Some(answer["seq"].as_u64().unwrap_or(0)))
}

fn line(event: &Value, paint: Paint) -> String {
    let text = |field: &str| event[field].as_str().unwrap_or("");
    let level = event["level"].as_u64().unwrap_or(2);
    let word = ["error", "warn ", "info ", "debug"].get(level as usize).copied().unwrap_or("info ");
    let place = match (text("world"), text("script")) {
        ("", "") => text("kind").to_owned(),
        ("", script) => format!("{} of {script}", text("kind")),
        (world, "") => world.to_owned(),
        (world, script) => format!("{world}/{script}"),
    };
    let time = rfc3339(event["time_ms"].as_u64().unwrap_or(0));
    let word = match level {
        0 => paint.bad(word),
        1 => paint.warn(word),
        3 => paint.soft(word),
        _ => word.to_owned(),
    };
    format!("{} {word} {place}: {}", paint.soft(&time), text("text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7_200)));
        for bad in ["", "s", "15", "m15", "-1s", "1.5h", "99999999999999999999d", "9µ"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_says_when_how_bad_where_and_what() {
        let event = json!({ "time_ms": 0, "level": 1, "kind": "script", "world": "town-1", "script": "thief", "text": "ended" });
        assert_eq!(line(&event, Paint::none()), format!("{} warn  town-1/thief: ended", rfc3339(0)));
        let reload = json!({ "time_ms": 0, "level": 2, "kind": "reload", "world": null, "script": "door", "text": "serves" });
        assert!(line(&reload, Paint::none()).ends_with("info  reload of door: serves"));
    }

    #[test]
    fn a_script_that_is_not_there_is_an_error_with_those_that_are() {
        let scripts = json!([{ "name": "door" }, { "name": "thief" }]);
        assert_eq!(is_there("town", "thief", &scripts), Ok(()));
        assert_eq!(is_there("town", "thieef", &scripts).unwrap_err(), "world town has no script thieef: it has door, thief");
        assert_eq!(is_there("town", "thief", &json!([])), Ok(()));
    }

    #[test]
    fn what_is_no_name_does_not_get_into_a_query() {
        assert!(query_text("town-1").is_ok() && query_text("a&limit=1").is_err() && query_text("").is_err());
    }
}
