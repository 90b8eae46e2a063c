//! What a node answers, as lines for people. Not here: the questions (`operate.rs`).

use aether_types::counted;
use serde_json::Value;

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// A value with a width: JSON's own display knows none.
pub(crate) fn shown(value: &Value) -> String {
    value.to_string()
}

pub(crate) fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "none".to_owned(), |number| format!("v{number}"))
}

pub(crate) fn reload_lines(report: &Value) -> Vec<String> {
    let (from, to) = (number(&report["from"]), number(&report["to"]));
    vec![format!(
        "{}: {from} -> {to} in {}, swapped in {} ms",
        text(&report["script"]),
        counted(report["worlds"].as_u64().unwrap_or(0) as usize, "world"),
        report["swap_ms"]
    )]
}

pub(crate) fn plan_lines(plan: &Value) -> Vec<String> {
    let mut lines = vec![format!("{}: from {}, source {}", text(&plan["script"]), number(&plan["from"]), text(&plan["source"]))];
    if plan["unchanged"] == true {
        lines.push("code and manifest are those that serve already".to_owned());
    }
    lines.extend(list(&plan["manifest_changes"]).iter().map(|change| format!("manifest: {}", text(change))));
    for world in list(&plan["worlds"]) {
        let what = match (world["refused"].as_str(), world["ticks"] == true) {
            (Some(reason), _) => format!("REFUSED: {reason}"),
            (None, true) => "rehearsed, would swap".to_owned(),
            (None, false) => "does not tick: would start with it".to_owned(),
        };
        lines.push(format!("world {}: {what}", text(&world["world"])));
        lines.extend(list(&world["log"]).iter().map(|line| format!("  it logged {}", text(line))));
    }
    lines
}

pub(crate) fn node_line(node: &Value) -> String {
    format!(
        "{:<12} {:<9} {:<22} worlds {:>5}  load {:.2} of {:.0}  lease {:>6} ms{}",
        text(&node["name"]),
        text(&node["state"]),
        text(&node["address"]),
        shown(&node["worlds"]),
        node["load"].as_f64().unwrap_or(0.0),
        node["capacity"].as_f64().unwrap_or(0.0),
        shown(&node["lease_left_ms"]),
        if node["linked"] == true { "  linked" } else { "" },
    )
}

pub(crate) fn placement_line(world: &Value) -> String {
    format!(
        "{:<20} {:<12} generation {:>5}  load {:.4}{}{}",
        text(&world["name"]),
        world["owner"].as_str().unwrap_or("nobody"),
        shown(&world["generation"]),
        world["load"].as_f64().unwrap_or(0.0),
        if world["target"] == world["owner"] { String::new() } else { format!("  goes to {}", text(&world["target"])) },
        if world["pinned"] == true { "  pinned" } else { "" },
    )
}

pub(crate) fn move_line(step: &Value) -> String {
    let from = step["from"].as_str().unwrap_or("nobody");
    format!("{:<20} {from} -> {}  ({})", text(&step["world"]), text(&step["to"]), text(&step["why"]))
}

pub(crate) fn world_line(world: &Value) -> String {
    format!(
        "{:<20} {:<10} tick {:>8}  p99 {:>8.1} us  scripts {:>4}  parked {}  restarts {}{}",
        text(&world["name"]),
        text(&world["state"]),
        shown(&world["tick"]),
        world["tick_p99_us"].as_f64().unwrap_or(0.0),
        list(&world["scripts"]).len(),
        shown(&world["parked"]),
        shown(&world["restarts"]),
        world["cause"].as_str().map_or_else(String::new, |cause| format!("  {cause}")),
    )
}

/// One world and its scripts.
pub(crate) fn describe_lines(world: &Value) -> Vec<String> {
    let mut lines = vec![world_line(world)];
    for script in list(&world["scripts"]) {
        let state = &script["state"];
        let cause = state["cause"].as_str().map_or_else(String::new, |cause| format!(": {cause}"));
        lines.push(format!(
            "  {:<20} {:<12} v{:<4} fuel {:>10}  turns {:>5}  restarts {:>3}  {}{cause}",
            text(&script["name"]),
            text(&script["script"]),
            shown(&script["version"]),
            shown(&script["fuel"]),
            shown(&script["turns"]),
            shown(&script["restarts"]),
            state["state"].as_str().unwrap_or_else(|| text(state)),
        ));
    }
    lines
}

/// A world's checkpoints.
pub(crate) fn checkpoint_lines(world: &str, checkpoints: &Value) -> Vec<String> {
    let checkpoints = list(checkpoints);
    if checkpoints.is_empty() {
        return vec![format!("{world} has no checkpoint yet: `aether checkpoint {world}` makes one")];
    }
    let line = |commit: &str, bytes: &str, time: &str, name: &str| {
        format!("{commit:>8}  {bytes:>10}  {time:<20}  {name}").trim_end().to_owned()
    };
    let row = |c: &Value| {
        let time = c["time_ms"].as_u64().filter(|time| *time > 0).map_or_else(|| "-".to_owned(), aether_admin::rfc3339);
        line(&shown(&c["commit"]), &shown(&c["bytes"]), &time, text(&c["name"]))
    };
    std::iter::once(line("commit", "bytes", "time", "name")).chain(checkpoints.iter().map(row)).collect()
}

/// A world's flight record, the oldest event first.
pub(crate) fn flight_lines(record: &Value) -> Vec<String> {
    let line = |event: &Value| {
        let script = event["script"].as_str().map_or_else(String::new, |script| format!(" {script}"));
        let time = aether_admin::rfc3339(event["time_ms"].as_u64().unwrap_or(0));
        format!("{time} tick {:>8} {:<16}{script} {}", shown(&event["tick"]), text(&event["kind"]), text(&event["text"]))
    };
    list(&record["events"]).iter().map(line).collect()
}

fn amount(value: &Value, unit: &str) -> String {
    let value = value.as_f64().unwrap_or(0.0);
    match unit {
        "bytes" => format!("{:.1} MiB", value / f64::from(1 << 20)),
        "microseconds" => format!("{:.2} ms", value / 1e3),
        _ => format!("{value:.0}"),
    }
}

/// What one world may use, and its scripts. It is counted what a script was refused, not by whose limit: both are named.
pub(crate) fn limits_lines(world: &Value) -> Vec<String> {
    let limit = |limit: &Value| {
        let unit = text(&limit["unit"]);
        let (used, max) = (amount(&limit["used"], unit), amount(&limit["max"], unit));
        format!("{:<16} {used:>12} of {max}", text(&limit["name"]))
    };
    let times = |rate: &Value| counted(rate["refused"].as_u64().unwrap_or(0) as usize, "time");
    let of_all =
        |action: &Value| list(&world["rates"]).iter().find(|rate| rate["action"] == *action).map(|rate| &rate["per_second"]);
    let refused = |rates: &Value, of_script: bool| {
        let hits = list(rates).iter().filter(|rate| rate["refused"].as_u64().unwrap_or(0) > 0);
        let hit = |rate: &Value| {
            let limits = match of_all(&rate["action"]).filter(|_| of_script) {
                Some(all) => format!(" (it may {}/s, all scripts together {all}/s)", rate["per_second"]),
                None => String::new(),
            };
            format!("{} {}{limits}", text(&rate["action"]), times(rate))
        };
        hits.map(hit).collect::<Vec<_>>().join(", ")
    };
    let none = |hits: String| if hits.is_empty() { "nothing".to_owned() } else { hits };
    let mut lines = vec![text(&world["world"]).to_owned()];
    lines.extend(list(&world["limits"]).iter().map(|row| format!("  {}", limit(row))));
    lines.push(format!("  refused by rate limits, its scripts' own or the world's: {}", none(refused(&world["rates"], false))));
    for script in list(&world["scripts"]) {
        let own = list(&script["limits"]).iter().map(limit).collect::<Vec<_>>().join("  ");
        lines.push(format!("    {:<20} {own}  refused {}", text(&script["name"]), none(refused(&script["rates"], true))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_say_what_is_used_and_what_was_refused_and_name_the_limit_of_whom() {
        let rate = |per_second: f32, refused| json!({ "action": "rpc", "per_second": per_second, "refused": refused });
        let script = |name: &str, rates: Value| json!({ "name": name, "limits": [], "rates": rates });
        let world = json!({
            "world": "town", "limits": [{ "name": "memory_mb", "unit": "bytes", "used": 1048576.0, "max": 2097152.0 }],
            "rates": [rate(500.0, 7)], "scripts": [script("bell", json!([rate(20.0, 7)])), script("thief", json!([rate(20.0, 0)]))],
        });
        let lines = limits_lines(&world);
        assert!(lines[1].contains("1.0 MiB of 2.0 MiB") && lines[2].ends_with("rpc 7 times"), "{lines:?}");
        assert!(lines[3].contains("bell") && lines[3].contains("it may 20.0/s, all scripts together 500.0/s"), "{lines:?}");
        assert!(lines[4].contains("thief") && lines[4].ends_with("refused nothing"), "{lines:?}");
    }

    #[test]
    fn a_list_of_checkpoints_says_what_its_columns_are_and_when_they_were_made() {
        let lines = checkpoint_lines("town", &json!([{ "commit": 7, "bytes": 100, "name": "noon", "time_ms": 1_000 }]));
        assert!(
            lines[0].contains("commit") && lines[0].contains("time") && lines[1].contains("1970-01-01T00:00:01"),
            "{lines:?}"
        );
        assert!(checkpoint_lines("town", &json!([]))[0].contains("no checkpoint"));
    }
}
