//! The one way to bytes and back: bincode behind a schema version, a limit and a check that nothing is left over.
//!
//! Without the limit nine hostile bytes can make a decoder ask for a terabyte and abort the process. Types derive only serde, so
//! another format would change this file alone. Layout: format byte, schema byte, bincode (standard configuration).

use serde::{Serialize, de::DeserializeOwned};

/// The format of everything written by this module.
const FORMAT: u8 = 1;
/// The most that is encoded or decoded at once, and the most that a decoder may ask to allocate.
pub const LIMIT: usize = 64 << 20;

/// Why bytes could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Written by something else, or damaged.
    #[error("these bytes have format {found}, this build reads format {FORMAT}")]
    Format {
        /// The first byte.
        found: u8,
    },
    /// Written by another version of this type.
    #[error("these bytes have schema version {found}, wanted is {wanted}")]
    Schema {
        /// The second byte.
        found: u8,
        /// What the caller reads.
        wanted: u8,
    },
    /// Shorter than the two bytes that everything begins with.
    #[error("no bytes")]
    Empty,
    /// Over the limit.
    #[error("{0} bytes are over the limit of {LIMIT}")]
    TooLarge(usize),
    /// Cut off or damaged.
    #[error("damaged: {0}")]
    Damaged(String),
    /// More bytes than the value has.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A value that cannot be written: a mistake of ours.
    #[error("could not encode: {0}")]
    Encode(String),
}

fn config()
-> bincode::config::Configuration<bincode::config::LittleEndian, bincode::config::Varint, bincode::config::Limit<LIMIT>> {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// A value as bytes, marked with its schema version.
pub fn encode<T: Serialize>(schema: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![FORMAT, schema];
    bincode::serde::encode_into_std_write(value, &mut bytes, config()).map_err(|e| CodecError::Encode(e.to_string()))?;
    if bytes.len() > LIMIT { Err(CodecError::TooLarge(bytes.len())) } else { Ok(bytes) }
}

/// A value from the bytes that [`encode`] made for the same schema version.
pub fn decode<T: DeserializeOwned>(schema: u8, bytes: &[u8]) -> Result<T, CodecError> {
    let (&[format, found], body) = bytes.split_first_chunk::<2>().ok_or(CodecError::Empty)?;
    if format != FORMAT {
        return Err(CodecError::Format { found: format });
    }
    if found != schema {
        return Err(CodecError::Schema { found, wanted: schema });
    }
    if body.len() > LIMIT {
        return Err(CodecError::TooLarge(body.len()));
    }
    let (value, read) = bincode::serde::decode_from_slice(body, config()).map_err(|e| CodecError::Damaged(e.to_string()))?;
    if read == body.len() { Ok(value) } else { Err(CodecError::Trailing(body.len() - read)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Value = (String, Vec<u64>, Option<[f32; 3]>);

    #[test]
    fn golden_bytes_stay_readable() {
        let value: Value = ("ab".into(), vec![1, 300], Some([0.5, 0.0, -1.0]));
        let bytes = [1, 7, 2, b'a', b'b', 2, 1, 251, 44, 1, 1, 0, 0, 0, 63, 0, 0, 0, 0, 0, 0, 128, 191];
        assert_eq!(encode(7, &value).unwrap(), bytes);
        assert_eq!(decode::<Value>(7, &bytes).unwrap(), value);
    }

    #[test]
    fn other_schema_trailing_bytes_and_huge_lengths_are_refused() {
        let bytes = encode(7, &"abc".to_owned()).unwrap();
        assert!(matches!(decode::<String>(8, &bytes), Err(CodecError::Schema { found: 7, wanted: 8 })));
        assert!(matches!(decode::<String>(7, &[&bytes[..], &[0]].concat()), Err(CodecError::Trailing(1))));
        let terabyte = [1, 7, 253, 0, 0, 0, 0, 0, 1, 0, 0];
        assert!(matches!(decode::<String>(7, &terabyte), Err(CodecError::Damaged(_))));
        assert!(matches!(decode::<Vec<u64>>(7, &terabyte), Err(CodecError::Damaged(_))));
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_are_an_error_or_a_value(bytes: Vec<u8>) {
            let _ = decode::<Value>(1, &[&[1, 1], &bytes[..]].concat());
        }
    }
}
