//! Text that PostgreSQL does not take as it is: it has no zero character. Keys are a script's, and may hold one.
//!
//! [`encode`] replaces it by two other characters such that keys stay different and in order; [`decode`] is its inverse.

use std::borrow::Cow;

/// Stands before what was replaced, and is itself replaced.
const MARK: char = '\u{1}';

/// As the database takes it.
pub(super) fn encode(text: String) -> String {
    if !text.contains(['\0', MARK]) {
        return text;
    }
    let mut encoded = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => encoded.extend([MARK, '\u{1}']),
            MARK => encoded.extend([MARK, '\u{2}']),
            other => encoded.push(other),
        }
    }
    encoded
}

/// As it was.
pub(super) fn decode(text: String) -> String {
    if !text.contains(MARK) {
        return text;
    }
    let mut decoded = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            MARK => decoded.extend(chars.next().map(|next| if next == '\u{1}' { '\0' } else { MARK })),
            other => decoded.push(other),
        }
    }
    decoded
}

/// For people to read, never compared: the character is shown as one that cannot be shown.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encoded_keys_have_no_zero_come_back_and_keep_their_order(a in "[\0\u{1}\u{2}ab]{0,6}", b in "[\0\u{1}\u{2}ab]{0,6}") {
            let (x, y) = (encode(a.clone()), encode(b.clone()));
            prop_assert!(!x.contains('\0'));
            prop_assert_eq!(a.cmp(&b), x.cmp(&y));
            prop_assert_eq!(decode(x), a);
        }
    }
}
