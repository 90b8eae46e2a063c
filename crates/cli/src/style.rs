//! Colours of lines: on a terminal, and not if `NO_COLOR` is set (<https://no-color.org>). The full-screen views' library looks at that
//! variable itself.

use std::io::IsTerminal;

/// Whether to colour, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(bool);

/// For standard output as it is now.
pub(crate) fn paint() -> Paint {
    Paint(std::io::stdout().is_terminal() && allowed())
}

/// Whether the user wants colours at all.
pub(crate) fn allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Paint {
    #[cfg(test)]
    pub(crate) fn none() -> Paint {
        Paint(false)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn soft(self, text: &str) -> String {
        self.with("2", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colour_text_is_as_it_was() {
        assert_eq!(Paint(false).bad("x"), "x");
        assert_eq!(Paint(true).bad("x"), "\x1b[31mx\x1b[0m");
    }
}
