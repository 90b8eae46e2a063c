//! Show and hide UI elements, update text. Commands reach the client in the order they were made.

use crate::error::done;
use crate::raw::call;
use crate::{PlayerId, Result};

/// Show an element. Its name is at most 64 bytes, its text 1024.
pub fn show(player: PlayerId, element: &str, text: &str) -> Result<()> {
    done(call!(ui::show(player.lowered(), in element.as_bytes(), in text.as_bytes())))
}

/// Hide an element.
pub fn hide(player: PlayerId, element: &str) -> Result<()> {
    done(call!(ui::hide(player.lowered(), in element.as_bytes())))
}

/// Change the text of an element.
pub fn set_text(player: PlayerId, element: &str, text: &str) -> Result<()> {
    done(call!(ui::set_text(player.lowered(), in element.as_bytes(), in text.as_bytes())))
}
