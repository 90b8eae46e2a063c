//! How many of something there are of each source of connections. Not here: how many requests a second (`gate`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counted by address; as large as there are connections.
#[derive(Clone)]
pub(crate) struct Sources {
    most: u32,
    counts: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

/// One of a source, until it is dropped.
pub(crate) struct OfSource {
    source: IpAddr,
    counts: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

impl Sources {
    pub fn new(most: u32) -> Sources {
        Sources { most, counts: Arc::default() }
    }

    /// One more. `None`: this source has as many as it may.
    pub fn enter(&self, source: IpAddr) -> Option<OfSource> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(OfSource { source, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for OfSource {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_as_many_as_it_may_and_nothing_is_kept_of_who_left() {
        let sources = Sources::new(2);
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|source| source.parse().unwrap());
        let first = sources.enter(one);
        let second = sources.enter(one);
        assert!(first.is_some() && second.is_some() && sources.enter(one).is_none() && sources.enter(other).is_some());
        drop(first);
        assert!(sources.enter(one).is_some());
        drop(second);
        assert!(sources.counts.lock().unwrap().is_empty());
    }
}
