//! A report for a terminal or a mail. Not here: what is in it (`report`), the page (`html`).

use super::report::Report;
use super::stats::Distribution;
use aether_types::counted;
use std::fmt::Write;

/// A number as short as it may be.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if v >= 1_000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        v if v >= 1e-3 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

fn distribution(what: &str, d: &Distribution) -> String {
    let [p50, p90, p99, p999, max] = [d.p50, d.p90, d.p99, d.p999, d.max].map(number);
    format!("{what:<28} p50 {p50:>8}  p90 {p90:>8}  p99 {p99:>8}  p99.9 {p999:>8}  max {max:>8} ms   of {}", d.count)
}

/// See the file.
pub(crate) fn render(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let (scenario, environment, totals) = (&report.scenario, &report.environment, &report.totals);
    line(format!("{}: {}", scenario.name, scenario.about));
    line(format!(
        "seed {}, {} s measured after {} s of warm-up, {}{}",
        scenario.seed,
        number(report.measured_seconds),
        number(scenario.warmup_seconds),
        report.driver,
        if report.stopped_early { "; STOPPED EARLY" } else { "" }
    ));
    line(format!(
        "aether {} ({}), {}, {} cores, {} MB, Linux {}, load {} before; {}",
        environment.version,
        environment.build,
        environment.processor,
        environment.cores,
        environment.memory_mb,
        environment.kernel,
        environment.load_before,
        report.made
    ));
    report.notes.iter().for_each(|note| line(format!("note: {note}")));
    line(String::new());
    let started = &report.started;
    let spawn = started.spawn_seconds.map_or_else(String::new, |seconds| {
        let rate = |count: u64| number(count as f64 / seconds.max(1e-3));
        format!(" ({} worlds/s, {} scripts/s)", rate(started.worlds), rate(started.scripts))
    });
    let (worlds, scripts) = (counted(started.worlds as usize, "world"), counted(started.scripts as usize, "script"));
    line(format!("{worlds}, {scripts}, up in {} s{spawn}", number(started.seconds)));
    line(distribution("CPU time of a tick", &report.ticks_ms));
    for group in report.groups.iter().filter(|_| report.groups.len() > 1) {
        line(distribution(&format!("  {} ({})", group.name, counted(group.worlds as usize, "world")), &group.tick_ms));
    }
    line(distribution("wait beyond the tick's time", &report.pauses_ms));
    let per_second = |count: u64| number(count as f64 / report.measured_seconds.max(1e-3));
    line(format!(
        "ticks {} ({}/s), missed {} ({}%), turns {}/s, deferrals {}/s",
        totals.ticks,
        per_second(totals.ticks),
        totals.missed_ticks,
        number(report.missed_percent(None)),
        per_second(totals.turns),
        per_second(totals.deferrals)
    ));
    line(format!(
        "inputs {} ({}/s, {} refused), calls and answers between worlds {}/s ({} calls asked for, {} refused)",
        totals.inputs,
        per_second(totals.inputs),
        totals.inputs_refused,
        per_second(totals.calls_out),
        totals.calls_asked,
        totals.calls_refused
    ));
    line(format!(
        "traps asked for {}, restarts of scripts {} ({}/s), of worlds {}",
        totals.traps,
        totals.script_restarts,
        per_second(totals.script_restarts),
        totals.world_restarts
    ));
    let middle = |of: fn(&super::look::Point) -> Option<f64>| {
        let mut values: Vec<_> = report.points.iter().filter(|point| !point.warmup).filter_map(of).collect();
        if values.is_empty() { "unknown".to_owned() } else { number(super::stats::median(&mut values)) }
    };
    line(format!(
        "CPU {}% of a core, memory {} MB (scripts' own {}), threads {}, files {}, tasks {}, disk {} MB (medians)",
        middle(|p| p.cpu_percent),
        middle(|p| p.resident_mb),
        middle(|p| Some(p.script_memory_mb)),
        middle(|p| p.threads.map(|n| n as f64)),
        middle(|p| p.files.map(|n| n as f64)),
        middle(|p| p.tasks.map(|n| n as f64)),
        middle(|p| p.disk_mb)
    ));
    for group in &report.groups {
        let (p50, max) = group.world_memory_kib;
        line(format!("memory of a world of {}: median {} KiB, largest {} KiB", group.name, number(p50), number(max)));
    }
    line(format!(
        "\n{:<14} {:>9} {:>10} {:>10} {:>12} {:>12} {:>9} {:>7}",
        "script", "instances", "KiB p50", "KiB max", "us/turn p50", "us/turn p99", "restarts", "parked"
    ));
    for kind in &report.kinds {
        let ((p50, max), (turn, turn_p99)) = (kind.memory_kib, kind.turn_us);
        let [p50, max, turn, turn_p99] = [p50, max, turn, turn_p99].map(number);
        line(format!(
            "{:<14} {:>9} {p50:>10} {max:>10} {turn:>12} {turn_p99:>12} {:>9} {:>7}",
            kind.script, kind.instances, kind.restarts, kind.parked
        ));
    }
    if !report.reloads.is_empty() {
        line("\nreloads (pause: the longest wait for a tick of any world meanwhile):".to_owned());
    }
    for reload in &report.reloads {
        let how = reload.error.as_ref().map_or_else(
            || format!("swapped in {} ms, pause {} ms", reload.swap_ms.unwrap_or(0), number(reload.pause_ms)),
            |error| format!("FAILED: {error}"),
        );
        line(format!("  at {:>7.1} s, over after {:.1} s: {how}", reload.at, reload.seconds));
    }
    for failover in &report.failovers {
        let how = failover
            .seconds
            .map_or_else(|| "not over at the end".to_owned(), |seconds| format!("{seconds:.2} s until all ticked"));
        let worlds = counted(failover.worlds, "world");
        line(format!("node {} killed at {:.1} s with {worlds}: {how}", failover.node, failover.at));
    }
    if !report.trends.is_empty() {
        line("\nslopes an hour (Theil-Sen over medians of 60 blocks, 95% interval), of the second half if it is long enough to judge by:".to_owned());
    }
    for trend in &report.trends {
        let [per_hour, low, high] = [trend.per_hour, trend.low, trend.high].map(number);
        let untold = if trend.is_told { "" } else { ", too short to tell" };
        line(format!(
            "  {:<10} {per_hour:>10} {:<3} [{low}, {high}] over {} s{untold}",
            trend.key,
            trend.unit,
            number(trend.of_seconds)
        ));
    }
    line(format!(
        "\nstopped in {} s, {} not saved; the test was at most {} ms late",
        number(report.stopped.seconds),
        counted(report.stopped.not_saved.len(), "world"),
        number(report.late_max_ms)
    ));
    for verdict in &report.verdicts {
        let measured = verdict.measured.map_or_else(|| "not measured".to_owned(), number);
        let (mark, why) = match verdict.passed {
            Some(true) => ("ok  ", ""),
            Some(false) => ("FAIL", ""),
            None => ("?   ", ", too short to tell"),
        };
        line(format!("{mark} {}: {measured} {} (at most {}){why}", verdict.what, verdict.unit, number(verdict.limit)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::report;

    #[test]
    fn the_text_names_the_seed_the_ticks_and_what_failed() {
        let mut found = report::tests::report(10, |_| 1.0, |_| 1.0);
        found.scenario.seed = 4_711;
        found.scenario.expect.tick_p99_ms_max = Some(0.5);
        found.verdicts = report::verdicts(&found);
        let text = super::render(&found);
        for wanted in [
            "seed 4711",
            "CPU time of a tick",
            "of 1000",
            "<drill>",
            "swapped in 60 ms, pause 12.00 ms",
            "FAIL CPU time of a tick, p99: 0.9",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }
}
