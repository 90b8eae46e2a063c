//! A report as one page: no scripts, no fonts, nothing from elsewhere; light or dark as the reader's system is.
//!
//! Start with [`render`]. Plots are SVG drawn here ([`lines`], [`bars`]): colours are the page's, so they follow light and dark, which
//! the plotting libraries' pictures do not. Not here: what is in a report (`report`).

use super::report::{METRICS, Metric, Report};
use super::stats::Distribution;
use super::text::{self, number};
use std::fmt::Write;

const STYLE: &str = "
:root{color-scheme:light dark;--bg:#fff;--fg:#1d2330;--dim:#667085;--line:#d5d9e2;--warm:#8883;--c0:#2563eb;--c1:#d97706;--c2:#dc2626;--c3:#059669;--bad:#dc2626;--good:#059669}
@media(prefers-color-scheme:dark){:root{--bg:#12151c;--fg:#e4e7ee;--dim:#97a0b3;--line:#323948;--c0:#6ea8ff;--c1:#f5b04c;--c2:#ff7b7b;--c3:#4cd7a1;--bad:#ff7b7b;--good:#4cd7a1}}
body{background:var(--bg);color:var(--fg);font:15px/1.45 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;box-sizing:border-box}
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:1.6em 0 .4em}p.dim,.dim{color:var(--dim)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2em .8em .2em 0;text-align:right;border-bottom:1px solid var(--line)}
td:first-child,th:first-child{text-align:left}.bad{color:var(--bad);font-weight:600}.good{color:var(--good)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:1em}figure{margin:0}figcaption{font-size:.9em}
svg{width:100%;height:auto;display:block}svg text{fill:var(--dim);font-size:11px}.grid{stroke:var(--line);stroke-width:1}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s{fill:none;stroke-width:1.6}
.k0{color:var(--c0)}.k1{color:var(--c1)}.k2{color:var(--c2)}.k3{color:var(--c3)}.bar{fill:var(--c0)}.warm{fill:var(--warm)}.mark{stroke:var(--dim);stroke-dasharray:3 3}
pre{overflow-x:auto}
";

/// Plots over time: a title and what is in it. Those in which nothing happened are left out.
const PLOTS: [(&str, &[&str]); 11] = [
    ("CPU time of a tick, ms", &["tick_p50", "tick_p99", "tick_max"]),
    ("Longest wait for a tick beyond its time, ms", &["pause_max"]),
    ("Ticks and missed ticks a second", &["ticks", "missed"]),
    ("Turns and deferrals a second", &["turns", "deferrals"]),
    ("CPU, percent of a core", &["cpu"]),
    ("Memory, MB", &["memory", "script_memory"]),
    ("Input and calls a second", &["inputs", "inputs_refused", "calls", "calls_refused"]),
    ("Traps and restarts a second", &["traps", "script_restarts", "world_restarts"]),
    ("Scripts out of order", &["suspended", "parked"]),
    ("Threads, files, tasks", &["threads", "files", "tasks"]),
    ("Data directory, MB", &["disk"]),
];

/// The picture's inside, and what is around it for axes.
const W: f64 = 520.0;
const H: f64 = 190.0;
const LEFT: f64 = 48.0;
const BOTTOM: f64 = 20.0;
const TOP: f64 = 8.0;

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// See the file.
pub(crate) fn render(report: &Report) -> String {
    let mut page = String::new();
    let scenario = &report.scenario;
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>aether loadtest: {name}</title><style>{STYLE}</style></head><body><h1>{name}</h1><p>{about}</p>\
         <p class=\"dim\">{made} · seed {seed} · {seconds} s measured · {driver} · aether {version} ({build}) on {cores} cores of {cpu}</p>",
        name = escaped(&scenario.name),
        about = escaped(&scenario.about),
        made = escaped(&report.made),
        seed = scenario.seed,
        seconds = number(report.measured_seconds),
        driver = escaped(&report.driver),
        version = escaped(&report.environment.version),
        build = escaped(&report.environment.build),
        cores = report.environment.cores,
        cpu = escaped(&report.environment.processor),
    );
    for note in &report.notes {
        let _ = write!(page, "<p class=\"bad\">{}</p>", escaped(note));
    }
    verdicts(&mut page, report);
    let _ = write!(page, "<h2>Ticks</h2><div class=\"plots\">");
    bars(&mut page, "CPU time of a tick: how many took how long", &report.ticks_ms);
    bars(&mut page, "Wait for a tick beyond its time, longest of each world and second", &report.pauses_ms);
    let _ = write!(
        page,
        "</div><h2>Over time</h2><p class=\"dim\">Grey: warm-up. Dashed: reloads and kills.</p><div class=\"plots\">"
    );
    for (title, keys) in PLOTS {
        let metrics: Vec<_> = keys.iter().filter_map(|key| METRICS.iter().find(|metric| metric.key == *key)).collect();
        lines(&mut page, title, &metrics, report);
    }
    let _ = write!(page, "</div>");
    worlds(&mut page, report);
    let _ = write!(page, "<h2>All of it</h2><pre>{}</pre></body></html>", escaped(&text::render(report)));
    page
}

fn verdicts(page: &mut String, report: &Report) {
    if report.verdicts.is_empty() {
        return;
    }
    let _ = write!(page, "<h2>Expected</h2><table><tr><th>what<th>measured<th>at most<th></tr>");
    for verdict in &report.verdicts {
        let measured = verdict.measured.map_or_else(|| "not measured".to_owned(), number);
        let (class, word) = match verdict.passed {
            Some(true) => ("good", "holds"),
            Some(false) => ("bad", "does not hold"),
            None => ("", "too short to tell"),
        };
        let (what, unit, limit) = (escaped(&verdict.what), &verdict.unit, number(verdict.limit));
        let _ = write!(page, "<tr><td>{what}<td>{measured} {unit}<td>{limit} {unit}<td class=\"{class}\">{word}</tr>");
    }
    let _ = write!(page, "</table>");
}

fn worlds(page: &mut String, report: &Report) {
    let _ = write!(
        page,
        "<h2>Worlds</h2><table><tr><th>worlds<th>how many<th>tick p50 ms<th>p99<th>missed<th>KiB of a world<th>largest</tr>"
    );
    for group in &report.groups {
        let [p50, p99] = [group.tick_ms.p50, group.tick_ms.p99].map(number);
        let [memory, largest] = [group.world_memory_kib.0, group.world_memory_kib.1].map(number);
        let (name, count, missed) = (escaped(&group.name), group.worlds, group.missed_ticks);
        let _ = write!(page, "<tr><td>{name}<td>{count}<td>{p50}<td>{p99}<td>{missed}<td>{memory}<td>{largest}</tr>");
    }
    let _ = write!(
        page,
        "</table><h2>Scripts</h2><table><tr><th>script<th>instances<th>KiB, median<th>largest<th>us a turn, median<th>p99<th>restarts<th>parked</tr>"
    );
    for kind in &report.kinds {
        let ((p50, max), (turn, turn_p99)) = (kind.memory_kib, kind.turn_us);
        let [p50, max, turn, turn_p99] = [p50, max, turn, turn_p99].map(number);
        let (name, count, restarts, parked) = (escaped(&kind.script), kind.instances, kind.restarts, kind.parked);
        let _ =
            write!(page, "<tr><td>{name}<td>{count}<td>{p50}<td>{max}<td>{turn}<td>{turn_p99}<td>{restarts}<td>{parked}</tr>");
    }
    let _ = write!(page, "</table>");
    if !report.reloads.is_empty() {
        let _ =
            write!(page, "<h2>Reloads</h2><table><tr><th>at, s<th>swapped in ms<th>longest pause ms<th>over after s<th></tr>");
    }
    for reload in &report.reloads {
        let swap = reload.swap_ms.map_or_else(String::new, |ms| ms.to_string());
        let error = escaped(reload.error.as_deref().unwrap_or(""));
        let [at, pause, seconds] = [reload.at, reload.pause_ms, reload.seconds].map(number);
        let _ = write!(page, "<tr><td>{at}<td>{swap}<td>{pause}<td>{seconds}<td class=\"bad\">{error}</tr>");
    }
    if !report.reloads.is_empty() {
        let _ = write!(page, "</table>");
    }
    if !report.failovers.is_empty() {
        let _ = write!(page, "<h2>Failovers</h2><table><tr><th>node<th>killed at s<th>worlds<th>until all ticked, s</tr>");
        for failover in &report.failovers {
            let (node, worlds, at) = (escaped(&failover.node), failover.worlds, number(failover.at));
            let seconds = failover.seconds.map_or_else(|| "not over".to_owned(), number);
            let _ = write!(page, "<tr><td>{node}<td>{at}<td>{worlds}<td>{seconds}</tr>");
        }
        let _ = write!(page, "</table>");
    }
}

/// A round number at or above.
fn ceiling(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}

/// A number of an axis, which is a round one.
fn axis(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Numbers over time.
fn lines(page: &mut String, title: &str, metrics: &[&Metric], report: &Report) {
    let value = |metric: &Metric, point| (metric.of)(point).filter(|value| value.is_finite());
    let top = metrics.iter().flat_map(|metric| report.points.iter().filter_map(|point| value(metric, point))).fold(0.0, f64::max);
    let Some(end) = report.points.last().map(|point| point.at).filter(|end| *end > 0.0 && top > 0.0) else { return };
    let top = ceiling(top);
    let x = |at: f64| LEFT + (W - LEFT) * at / end;
    let y = |value: f64| TOP + (H - TOP - BOTTOM) * (1.0 - value / top);
    let _ = write!(page, "<figure><figcaption>{}", escaped(title));
    for (i, metric) in metrics.iter().enumerate().filter(|_| metrics.len() > 1) {
        let _ = write!(page, " <span class=\"k{i}\">■ {}</span>", escaped(metric.label));
    }
    let _ = write!(page, "</figcaption><svg viewBox=\"0 0 {W} {H}\" role=\"img\"><title>{}</title>", escaped(title));
    if let Some(warm) = report.points.iter().rfind(|point| point.warmup) {
        let (width, height) = (x(warm.at) - LEFT, H - TOP - BOTTOM);
        let _ = write!(page, "<rect class=\"warm\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height:.1}\"/>");
    }
    for step in 0..=4 {
        let part = f64::from(step) / 4.0;
        let (at, label) = (y(top * part), axis(top * part));
        let _ = write!(page, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{W}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let _ = write!(page, "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 4.0, at + 4.0);
        let anchor = if step == 4 { "end" } else { "middle" };
        let (at, label) = (x(end * part), axis((end * part).round()));
        let _ = write!(page, "<text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{label} s</text>", H - 4.0);
    }
    let marks = report.reloads.iter().map(|reload| reload.at).chain(report.failovers.iter().map(|failover| failover.at));
    // More than can be told apart are no help.
    for at in marks.take(200).map(x) {
        let _ = write!(page, "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.0}\"/>", H - BOTTOM);
    }
    for (i, metric) in metrics.iter().enumerate() {
        let points: String = report
            .points
            .iter()
            .filter_map(|point| Some((point.at, value(metric, point)?)))
            .map(|(at, value)| format!("{:.1},{:.1} ", x(at), y(value)))
            .collect();
        let _ = write!(page, "<polyline class=\"s s{i}\" points=\"{}\"/>", points.trim_end());
    }
    let _ = write!(page, "</svg></figure>");
}

/// How many took how long; both on a logarithmic scale, so that one in a million is seen.
fn bars(page: &mut String, title: &str, distribution: &Distribution) {
    let bars = &distribution.bars;
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else { return };
    // Below a microsecond there is nothing to tell apart.
    let (low, high) = ((first.0 / 1.3).max(1e-3).ln(), (last.0 * 1.05).max(2e-3).ln());
    let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let height = |count: u64| (H - TOP - BOTTOM) * (1.0 + count as f64).ln() / (1.0 + most as f64).ln();
    let x = |ms: f64| LEFT + (W - LEFT) * ((ms.ln() - low) / (high - low)).clamp(0.0, 1.0);
    let [p50, p99, max] = [distribution.p50, distribution.p99, distribution.max].map(number);
    let _ = write!(
        page,
        "<figure><figcaption>{} <span class=\"dim\">p50 {p50} ms, p99 {p99} ms, max {max} ms</span></figcaption>",
        escaped(title)
    );
    let _ = write!(page, "<svg viewBox=\"0 0 {W} {H}\" role=\"img\"><title>{}</title>", escaped(title));
    let mut power = 1;
    while power <= most {
        let at = H - BOTTOM - height(power);
        let _ = write!(page, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{W}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let _ = write!(page, "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{power}</text>", LEFT - 4.0, at + 4.0);
        power *= 10;
    }
    for (end, count) in bars {
        let (from, to, tall) = (x(end / 1.15), x(*end), height(*count));
        let (top, width) = (H - BOTTOM - tall, (to - from - 0.6).max(0.6));
        let _ = write!(
            page,
            "<rect class=\"bar\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{tall:.1}\"><title>up to {} ms: {count}</title></rect>",
            number(*end)
        );
    }
    for ms in [distribution.p50, distribution.p99, distribution.max].map(x) {
        let _ = write!(page, "<line class=\"mark\" x1=\"{ms:.1}\" x2=\"{ms:.1}\" y1=\"{TOP}\" y2=\"{:.0}\"/>", H - BOTTOM);
    }
    let decades = (low / 10f64.ln()).ceil() as i32..=(high / 10f64.ln()).floor() as i32;
    for ms in decades.map(|decade| 10f64.powi(decade)) {
        let _ = write!(page, "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{} ms</text>", x(ms), H - 4.0, axis(ms));
    }
    let _ = write!(page, "</svg></figure>");
}

#[cfg(test)]
mod tests {
    use super::super::report;

    #[test]
    fn a_page_has_plots_and_takes_nothing_from_elsewhere_and_no_name_as_html() {
        let mut found = report::tests::report(30, f64::from, |_| 100.0);
        found.notes = vec!["<script>alert(1)</script>".into()];
        let page = super::render(&found);
        assert!(page.matches("<svg").count() >= 4, "{page}");
        for foreign in ["http://", "https://", "<script", "url(", "@import", "<link", "<drill>"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("prefers-color-scheme:dark") && page.contains("&lt;drill&gt;"));
        // No number that a browser cannot draw.
        assert!(!page.contains("NaN") && !page.contains("inf "));
    }

    #[test]
    fn an_axis_ends_at_a_round_number_that_nothing_is_above() {
        for value in [0.003, 0.9, 1.0, 7.3, 24.0, 26.0, 99.0, 12_345.0] {
            let top = super::ceiling(value);
            assert!(top >= value && top <= value * 2.51, "{value} {top}");
        }
    }
}
