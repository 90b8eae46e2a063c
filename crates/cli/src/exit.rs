//! What the program's exit code says: one list, for scripts that call it and for `aether --help`.
//!
//! Not here: what the errors say (they say what to do next; `complain` in `main.rs` prints them with their causes).

use aether_admin::ClientError;
use std::process::ExitCode;

/// It was refused, or it failed: standard error says why and what to do.
pub(crate) const FAILED: u8 = 1;
/// No node answers, or it did not in time: it may be started, or asked again.
pub(crate) const NO_ANSWER: u8 = 3;

/// The list for `--help`.
pub(crate) const HELP: &str = "Exit codes:
  0    done
  1    refused or failed: standard error says why, and what to do next
  2    the command line is wrong, nothing was tried
  3    no node answers, or it did not in time
  130  ended by Ctrl-C; what saves first, by a third one, unsaved

Variables:
  AETHER_LOG                what is logged to standard error: warn, info, aether_cluster=debug …
  AETHER_<TABLE>__<FIELD>   a field of the cluster file, over it: AETHER_LIMITS__TICK_HZ=10
  NO_COLOR                  no colours, whatever its value";

/// The code of an error.
pub(crate) fn code(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let silent = match error.downcast_ref::<ClientError>() {
        Some(ClientError::NoNode { .. } | ClientError::NoAddress { .. } | ClientError::Late(_)) => true,
        Some(ClientError::Problem(_) | ClientError::Answer(_) | ClientError::BadAddress(_) | ClientError::Authority { .. })
        | None => false,
    };
    ExitCode::from(if silent { NO_ANSWER } else { FAILED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code() {
        // 2 is clap's.
        for code in [0, FAILED, 2, NO_ANSWER, 130] {
            assert!(HELP.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))), "{code}");
        }
    }
}
