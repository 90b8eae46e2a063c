//! Processes that are started for an author, and that they end with us.
//!
//! Each is the first of a group of its own, so that what it starts can be ended with it; for the same reason the terminal's Ctrl-C does
//! not reach it. [`end_all`] passes it on. Not here: what is started and why (`build`).

use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The groups that may have living processes. `None`: we end, and nothing more is started.
static GROUPS: Mutex<Option<BTreeSet<u32>>> = Mutex::new(Some(BTreeSet::new()));

fn groups() -> MutexGuard<'static, Option<BTreeSet<u32>>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(group: u32) {
    if let Some(group) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Start a process in a group of its own. It is known from its first moment on: whoever ends us meanwhile waits for this.
pub(crate) fn start(command: &mut Command) -> std::io::Result<Child> {
    let mut groups = groups();
    let Some(groups) = groups.as_mut() else { return Err(std::io::Error::other("the program is being ended")) };
    let child = command.process_group(0).spawn()?;
    groups.insert(child.id());
    Ok(child)
}

/// End a process and all that it has started.
pub(crate) fn end(child: &mut Child) {
    kill(child.id());
    let _ = child.wait();
    forget(child);
}

/// It has ended by itself.
pub(crate) fn forget(child: &Child) {
    if let Some(groups) = groups().as_mut() {
        groups.remove(&child.id());
    }
}

/// End them all, and let nothing more be started.
pub(crate) fn end_all() {
    groups().take().into_iter().flatten().for_each(kill);
}

/// From now on Ctrl-C, SIGTERM and SIGHUP end this program together with its children, at once: for commands that have nothing to save.
pub(crate) fn end_with_us() {
    // Who has said already what a signal means keeps it.
    let _ = ctrlc::set_handler(|| {
        end_all();
        std::process::exit(130);
    });
}
