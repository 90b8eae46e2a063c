//! How many of something there are of each source of connections. Not here: how many requests a second (`gate`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// What one stranger has: an address, or an IPv6 network.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none() => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        ip => ip,
    }
}

/// Counted by address or network; as large as there are connections.
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
        let source = network(source);
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

    #[test]
    fn a_network_of_addresses_is_one_source() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("::ffff:192.0.2.1"), of("::ffff:192.0.2.2"));
        let (sources, [one, same]) = (Sources::new(1), ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"].map(|ip| ip.parse().unwrap()));
        let _first = sources.enter(one);
        assert!(sources.enter(same).is_none());
    }
}
