//! Lines for an author: colours on a terminal that wants them, none elsewhere.

use std::io::IsTerminal;

/// Prints, with or without colours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    colours: bool,
}

/// What a line is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tone {
    Good,
    Bad,
    Odd,
    Plain,
    Faint,
}

impl Report {
    /// For standard output: colours only on a terminal, and not if `NO_COLOR` says anything.
    pub fn new() -> Report {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Report { colours: wanted && std::io::stdout().is_terminal() }
    }

    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.colours => return text.to_owned(),
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Odd => "33",
            Tone::Faint => "2",
            Tone::Plain => return text.to_owned(),
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A line with what it is about in front.
    pub fn line(self, tone: Tone, about: &str, text: &str) {
        crate::say(&format!("{} {text}", self.paint(tone, &format!("{about:>7}"))));
    }
}
