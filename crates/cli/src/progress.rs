//! Progress of what takes long: a line on standard error that changes, if that is a terminal; nothing elsewhere.
//!
//! [`Progress`] is the line; [`during`] asks a node something and meanwhile shows how far it has come. Not here: what is asked.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Between two looks at how far it has come.
const LOOK: Duration = Duration::from_millis(250);
/// What is done sooner shows no line.
const AT_ONCE: Duration = Duration::from_millis(400);

/// A line that goes when it is dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Hidden where standard error is no terminal.
    pub(crate) fn new(text: impl Into<String>) -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{spinner} {msg} [{elapsed}]").expect("this template is valid"));
        bar.set_message(text.into());
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress(bar)
    }

    /// How much there is to do, once that is known.
    pub(crate) fn length(&self, length: u64) {
        let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len} [{elapsed}]");
        self.0.set_style(style.expect("this template is valid"));
        self.0.set_length(length);
    }

    pub(crate) fn at(&self, done: u64) {
        self.0.set_position(done);
    }

    pub(crate) fn say(&self, text: impl Into<String>) {
        self.0.set_message(text.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Do something that takes long. `look` says how far it has come; it is not called where nobody would see it.
pub(crate) fn during<R: Send>(text: &str, work: impl FnOnce() -> R + Send, mut look: impl FnMut() -> Option<String>) -> R {
    let (done, wait) = mpsc::channel();
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let result = work();
            let _ = done.send(());
            result
        });
        if wait.recv_timeout(AT_ONCE) == Err(RecvTimeoutError::Timeout) {
            let progress = Progress::new(text);
            while wait.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if !progress.0.is_hidden()
                    && let Some(how_far) = look()
                {
                    progress.say(format!("{text}: {how_far}"));
                }
            }
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Wait until `left` says 0, or for at most `time`; shows how many are left. `Err`: so many still are.
pub(crate) fn until_none<E>(text: &str, time: Duration, mut left: impl FnMut() -> Result<u64, E>) -> Result<Result<(), u64>, E> {
    let deadline = Instant::now() + time;
    let first = left()?;
    if first == 0 {
        return Ok(Ok(()));
    }
    let progress = Progress::new(text);
    progress.length(first);
    loop {
        std::thread::sleep(LOOK);
        let now = left()?;
        progress.at(first.saturating_sub(now));
        if now == 0 {
            return Ok(Ok(()));
        }
        if Instant::now() > deadline {
            return Ok(Err(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn what_was_done_is_given_back_whether_somebody_looks_or_not() {
        assert_eq!(during("test", || 7, || None), 7);
    }

    #[test]
    fn a_wait_ends_when_none_is_left_or_its_time_is_over() {
        let mut left = [2, 1, 0].into_iter();
        let ended = until_none("test", Duration::from_secs(60), || Ok::<_, Infallible>(left.next().unwrap_or(9)));
        assert_eq!(ended, Ok(Ok(())));
        assert_eq!(until_none("test", Duration::ZERO, || Ok::<_, Infallible>(3)), Ok(Err(3)));
        assert_eq!(until_none("test", Duration::ZERO, || Err("gone")), Err("gone"));
    }
}
