//! A table's column as horizontal bars, in SVG. Lengths are logarithmic: rows differ by a thousand times.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LABELS: f64 = 190.0;
const ROW: f64 = 22.0;
const TOP: f64 = 44.0;
/// Room for a bar's number after its end.
const NUMBERS: f64 = 90.0;

/// Rows with what they measure; the product's are drawn darker.
pub(crate) fn bars(title: &str, rows: &[(String, f64)]) -> String {
    let (least, most) = rows.iter().fold((f64::MAX, f64::MIN), |(least, most), (_, v)| (least.min(*v), most.max(*v)));
    let (low, high) = (least.max(1e-9).log10().floor(), most.max(1e-9).log10().ceil());
    let span = (high - low).max(1.0);
    let length = |value: f64| (value.max(1e-9).log10() - low) / span * (WIDTH - LABELS - NUMBERS);
    let height = TOP + ROW * rows.len() as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n<text x=\"8\" y=\"18\" font-size=\"14\" fill=\"#222222\">{}</text>\n",
        escaped(title)
    );
    for decade in low as i32..=high as i32 {
        let x = LABELS + length(10f64.powi(decade));
        let _ = writeln!(svg, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{height}\" stroke=\"#dddddd\"/>", TOP - 6.0);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#777777\" font-size=\"10\">{}</text>",
            TOP - 9.0,
            number(10f64.powi(decade))
        );
    }
    for (at, (name, value)) in rows.iter().enumerate() {
        let (y, end) = (TOP + ROW * at as f64, LABELS + length(*value).max(1.0));
        let colour = if name.starts_with("Aether") { "#1f5fa8" } else { "#a9bfd6" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#222222\">{}</text>\n\
             <rect x=\"{LABELS}\" y=\"{}\" width=\"{:.1}\" height=\"14\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{}\" fill=\"#222222\">{}</text>",
            LABELS - 8.0,
            y + 12.0,
            escaped(name),
            y + 1.0,
            end - LABELS,
            end + 6.0,
            y + 12.0,
            number(*value)
        );
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Three digits, and commas between thousands.
pub(crate) fn number(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (2 - value.abs().log10().floor() as i32).clamp(0, 3) as usize };
    grouped(&format!("{value:.digits$}"))
}

/// A whole number with commas between thousands.
pub(crate) fn count(n: u64) -> String {
    grouped(&n.to_string())
}

fn grouped(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && digit.is_ascii_digit() && (whole.len() - at).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_commas() {
        let shown = [0.0, 0.0123, 1.234, 45.67, 157.7, 1_049.0, 1_234_567.0, -1_500.0].map(number);
        assert_eq!(shown, ["0", "0.012", "1.23", "45.7", "158", "1,049", "1,234,567", "-1,500"]);
    }

    #[test]
    fn a_bar_of_ten_times_the_value_is_a_decade_longer_and_names_are_escaped() {
        let svg = bars("a < b", &[("Aether".into(), 10.0), ("x & y".into(), 100.0), ("z".into(), 1_000.0)]);
        let widths: Vec<f64> = svg
            .lines()
            .filter_map(|line| line.split_once("height=\"14\"")?.0.split_once("width=\"")?.1.trim_end_matches("\" ").parse().ok())
            .collect();
        assert_eq!(widths.len(), 3, "{svg}");
        assert!((widths[2] - widths[1] - (widths[1] - widths[0]) - widths[0] + 1.0).abs() < 2.0, "{widths:?}");
        assert!(svg.contains("a &lt; b") && svg.contains("x &amp; y"));
    }
}
