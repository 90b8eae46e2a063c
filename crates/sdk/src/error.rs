//! Why the host did not do what a script asked, and how its answers become results.

use core::fmt;

/// The codes of the WIT's `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// The script or its world has used up its allowance for this action; try again in a later tick.
    RateLimited,
    /// No such entity, prefab, key, script or sound.
    NotFound,
    /// The script's manifest does not grant this.
    Denied,
    /// A string, value, list or radius is larger than allowed.
    TooLarge,
    /// An address or length outside the script's memory. The SDK makes none.
    BadPointer,
    /// A string that is not UTF-8.
    BadUtf8,
    /// A NaN or infinite number, or a coordinate outside the world.
    BadNumber,
    /// A value that the function does not take.
    BadArgument,
    /// The world or an inbox is full.
    Full,
    /// This host does not have this function. So says every function outside wasm32.
    Unsupported,
    /// The store could not be read.
    Unavailable,
    /// A code of a newer host.
    Other(i32),
}

/// What the functions of this crate give.
pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// The error of a negative code.
    pub const fn from_code(code: i32) -> Error {
        match code {
            -1 => Error::RateLimited,
            -2 => Error::NotFound,
            -3 => Error::Denied,
            -4 => Error::TooLarge,
            -5 => Error::BadPointer,
            -6 => Error::BadUtf8,
            -7 => Error::BadNumber,
            -8 => Error::BadArgument,
            -9 => Error::Full,
            -10 => Error::Unsupported,
            -11 => Error::Unavailable,
            other => Error::Other(other),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::RateLimited => "allowance used up",
            Error::NotFound => "not found",
            Error::Denied => "not granted by the manifest",
            Error::TooLarge => "too large",
            Error::BadPointer => "address outside memory",
            Error::BadUtf8 => "not UTF-8",
            Error::BadNumber => "number out of range",
            Error::BadArgument => "value not taken",
            Error::Full => "full",
            Error::Unsupported => "unsupported by this host",
            Error::Unavailable => "store unavailable",
            Error::Other(code) => return write!(f, "error {code}"),
        })
    }
}

impl core::error::Error for Error {}

/// The value of a lowered `result<u32, error>`, or of a count.
pub(crate) fn count(answer: i32) -> Result<usize> {
    if answer < 0 { Err(Error::from_code(answer)) } else { Ok(answer as usize) }
}

/// A lowered `result<_, error>`.
pub(crate) fn done(answer: i32) -> Result<()> {
    count(answer).map(drop)
}

/// A lowered `result<u64, error>`.
pub(crate) fn value(answer: i64) -> Result<u64> {
    if answer < 0 { Err(Error::from_code(i32::try_from(answer).unwrap_or(i32::MIN))) } else { Ok(answer as u64) }
}

/// A list whose length only the host knows: asks with room for `first`, and once more with as much as it said, up to `most`.
/// One retry is enough, since nothing changes between two calls of a tick.
pub(crate) fn list<T: Copy>(first: usize, most: usize, empty: T, mut ask: impl FnMut(&mut [T]) -> i32) -> Result<Vec<T>> {
    let mut list = vec![empty; first];
    let mut there = count(ask(&mut list))?;
    if there > list.len() && list.len() < most {
        list.resize(there.min(most), empty);
        there = count(ask(&mut list))?;
    }
    list.truncate(there);
    Ok(list)
}

/// Bytes, of which the host writes all or none.
pub(crate) fn bytes(mut ask: impl FnMut(&mut [u8]) -> i32) -> Result<Vec<u8>> {
    let mut longest = 0;
    let bytes = list(128, usize::MAX, 0, |out| {
        let there = ask(out);
        longest = there;
        there
    })?;
    if longest as usize > bytes.len() { Err(Error::TooLarge) } else { Ok(bytes) }
}

/// Like [`bytes`].
pub(crate) fn string(ask: impl FnMut(&mut [u8]) -> i32) -> Result<String> {
    String::from_utf8(bytes(ask)?).map_err(|_| Error::BadUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that has `there` bytes to give.
    fn host(there: usize, calls: &mut u32) -> impl FnMut(&mut [u8]) -> i32 {
        move |out| {
            *calls += 1;
            if out.len() >= there {
                out[..there].fill(7);
            }
            there as i32
        }
    }

    #[test]
    fn a_short_answer_takes_one_call_and_a_long_one_two() {
        let mut calls = 0;
        assert_eq!(bytes(host(5, &mut calls)), Ok(vec![7; 5]));
        assert_eq!(calls, 1);
        calls = 0;
        assert_eq!(bytes(host(1000, &mut calls)), Ok(vec![7; 1000]));
        assert_eq!(calls, 2);
    }

    #[test]
    fn a_host_whose_answer_keeps_growing_is_not_asked_for_ever() {
        let mut size = 1000;
        let answer = bytes(|_| {
            size += 1000;
            size
        });
        assert_eq!(answer, Err(Error::TooLarge));
        assert_eq!(size, 3000);
    }

    #[test]
    fn every_code_of_the_wit_has_a_name() {
        assert_eq!(Error::from_code(-1), Error::RateLimited);
        assert_eq!(Error::from_code(-11), Error::Unavailable);
        assert!((-11..0).all(|code| !matches!(Error::from_code(code), Error::Other(_))));
        assert_eq!(value(-99), Err(Error::Other(-99)));
        assert_eq!(value(i64::MAX), Ok(i64::MAX as u64));
    }
}
