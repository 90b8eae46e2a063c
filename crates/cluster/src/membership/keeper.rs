//! The thread that holds the lease. It does nothing else, so that nothing makes it late.
//!
//! A renewal that fails is tried again until the lease is over; then the node's worlds end, and it enters the cluster anew, as another
//! node of the same name. Not here: what a lease is (`lease`).

use crate::membership::Member;
use crate::membership::lease::boottime_ns;
use aether_store::StoreError;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Between two attempts to enter again: the database may be away for long.
const ENTER_AGAIN: Duration = Duration::from_millis(500);

pub(super) fn start(member: &Arc<Member>) -> std::io::Result<()> {
    let (member, lease) = (Arc::downgrade(member), member.lease_time());
    std::thread::Builder::new().name("lease".into()).spawn(move || run(&member, lease)).map(drop)
}

fn run(member: &Weak<Member>, lease: Duration) {
    let mut wait = lease / 3;
    loop {
        std::thread::sleep(wait);
        let Some(member) = member.upgrade() else { return };
        // It has left.
        let Some(id) = member.id() else { return };
        let asked_ns = boottime_ns();
        match member.directory.renew(&id, lease) {
            // Granted, but this process slept meanwhile: the others may have seen it lapse, and must not see it act on that.
            Ok(()) if boottime_ns() - asked_ns < lease.as_nanos() as u64 && member.lease.holds() => {
                member.lease.granted(asked_ns, lease);
                let before_ns = member.renewed_ns.swap(asked_ns, Ordering::AcqRel);
                // Twice as long as it should be.
                if asked_ns.saturating_sub(before_ns) > (lease * 2 / 3).as_nanos() as u64 {
                    member.renewals_late.fetch_add(1, Ordering::Relaxed);
                }
                let _ = member.unbroken_ns.compare_exchange(0, asked_ns, Ordering::AcqRel, Ordering::Acquire);
                wait = lease / 3;
                continue;
            }
            Err(StoreError::DeclaredDead(_)) => member.fence("the others have declared it dead"),
            Err(error) if member.lease.holds() => {
                tracing::warn!(%error, "the lease was not renewed");
                member.renewals_late.fetch_add(1, Ordering::Relaxed);
                member.unbroken_ns.store(0, Ordering::Release);
                wait = (lease / 20).max(Duration::from_millis(20));
                continue;
            }
            Ok(()) | Err(_) => member.fence("its lease is over"),
        }
        // First the end of the life before: nobody has to wait for its worlds.
        while let Err(error) = member.directory.bury(&id).and_then(|()| member.enter()) {
            tracing::warn!(%error, "cannot enter the cluster, trying again");
            std::thread::sleep(ENTER_AGAIN);
            if member.id().is_none() {
                return;
            }
        }
        member.event("this node has entered the cluster again".to_owned());
        member.look();
        wait = lease / 3;
    }
}
