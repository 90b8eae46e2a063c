//! Runs a project's build: a child process with a deadline, its output shown, its end a value.
//!
//! Start with [`Build::start`]. Not here: when to build (`dev`), what to make of the result (`project`).

use super::children;
use super::project::{BuildFile, Project};
use super::report::{Report, Tone};
use crate::{CommandResult, say};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Lines of a build that are kept to be shown: a compiler that says more has said enough.
const LINES_MAX: usize = 400;

/// How a build ended.
#[derive(Debug)]
pub(crate) struct Built {
    /// `Err`: why it is no good.
    pub outcome: Result<(), String>,
    /// What the compiler wrote.
    pub output: Vec<String>,
    pub took: Duration,
}

/// A build that runs. Dropping it ends its processes.
pub(crate) struct Build {
    child: Child,
    program: String,
    lines: Receiver<String>,
    output: Vec<String>,
    begun: Instant,
    deadline: Instant,
}

impl Build {
    /// Start a command in a folder.
    pub fn start(dir: &Path, command: &[String], deadline: Duration) -> Result<Build, String> {
        let (program, arguments) = command.split_first().ok_or("the command is empty")?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = children::start(&mut command)
            .map_err(|error| format!("could not start {program:?}: {error}: is it installed and in PATH?"))?;
        let (send, lines) = channel();
        for stream in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
            follow(stream, send.clone());
        }
        let begun = Instant::now();
        Ok(Build { child, program: program.clone(), lines, output: Vec::new(), begun, deadline: begun + deadline })
    }

    /// Whether it is over, and how. Does not wait.
    pub fn poll(&mut self) -> Option<Built> {
        self.read();
        let outcome = match self.child.try_wait() {
            Ok(Some(status)) => {
                children::forget(&self.child);
                if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", self.program)) }
            }
            Ok(None) if Instant::now() < self.deadline => return None,
            Ok(None) => {
                children::end(&mut self.child);
                let seconds = (self.deadline - self.begun).as_secs();
                Err(format!("{} took more than {seconds} s and was ended: raise deadline_seconds in build.toml", self.program))
            }
            Err(error) => Err(format!("{}: {error}", self.program)),
        };
        let took = self.begun.elapsed();
        // What it wrote last is on its way still.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(200)) {
            self.keep(line);
        }
        Some(Built { outcome, output: std::mem::take(&mut self.output), took })
    }

    /// Wait for its end.
    pub fn wait(mut self) -> Built {
        loop {
            if let Some(built) = self.poll() {
                return built;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn read(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.keep(line);
        }
    }

    fn keep(&mut self, line: String) {
        if self.output.len() < LINES_MAX {
            self.output.push(line);
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            children::end(&mut self.child);
        }
    }
}

fn boxed(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}

/// Pass lines on until the stream ends; a line is cut at 1 KiB.
fn follow(stream: Box<dyn Read + Send>, send: Sender<String>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(64 << 10).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    line.truncate(1 << 10);
                    if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                        return;
                    }
                }
            }
        }
    });
}

impl BuildFile {
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_seconds.clamp(1, 86_400))
    }
}

/// Do what must be done once, if it was not, then start the build. `None`: there is nothing to build.
pub(crate) fn start(project: &Project, told: &mut dyn FnMut(&str)) -> Result<Option<Build>, String> {
    let Some(build) = &project.build else { return Ok(None) };
    prepare(project, build, told)?;
    Build::start(&project.dir, &build.command, build.deadline()).map(Some)
}

fn prepare(project: &Project, build: &BuildFile, told: &mut dyn FnMut(&str)) -> Result<(), String> {
    let Some(setup) = build.setup.as_ref().filter(|setup| !project.dir.join(&setup.creates).exists()) else { return Ok(()) };
    told(&format!("setting up: {}", setup.command.join(" ")));
    let built = Build::start(&project.dir, &setup.command, build.deadline())?.wait();
    for line in &built.output {
        told(line);
    }
    built.outcome.map_err(|reason| format!("the setup of build.toml failed: {reason}"))
}

/// Build and wait; what the compiler said is in the error. For `aether script test`: the test build if there is one.
pub(crate) fn build_for_tests(project: &Project, told: &mut dyn FnMut(&str)) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let Some(build) = &project.build else { return Ok(project.code_file()) };
    children::end_with_us();
    prepare(project, build, told)?;
    let (command, output) = match &build.test {
        Some(test) => (&test.command, &test.output),
        None => (&build.command, &build.output),
    };
    run_to_end(project, build, command, told)?;
    Ok(project.dir.join(output))
}

fn run_to_end(project: &Project, build: &BuildFile, command: &[String], told: &mut dyn FnMut(&str)) -> Result<(), String> {
    told(&format!("building: {}", command.join(" ")));
    let built = Build::start(&project.dir, command, build.deadline())?.wait();
    built.outcome.map_err(|reason| format!("{}\nthe build failed: {reason}", built.output.join("\n")))
}

/// `aether script build`.
pub(crate) fn run(dir: &Path) -> CommandResult {
    let project = Project::open(dir)?;
    let Some(build) = &project.build else {
        return Err(format!("{} has no build.toml that says how: `aether init script` makes one", dir.display()).into());
    };
    children::end_with_us();
    let report = Report::new();
    let mut told = |line: &str| report.line(Tone::Faint, "build", line);
    prepare(&project, build, &mut told)?;
    run_to_end(&project, build, &build.command, &mut told)?;
    let code = project.code()?;
    let file = project.published_file();
    if file != project.code_file() {
        super::world::put(&file, &code.wasm)?;
    }
    say(&format!("{}: {} bytes, SHA-256 {}", file.display(), code.wasm.len(), code.digest));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(script: &str, deadline: Duration) -> Built {
        let command = ["sh", "-c", script].map(str::to_owned);
        Build::start(Path::new("."), &command, deadline).unwrap().wait()
    }

    #[test]
    fn a_build_that_takes_too_long_is_ended_with_all_that_it_started() {
        let built = build("echo begun; sleep 600 & sleep 600", Duration::from_millis(300));
        assert!(built.outcome.unwrap_err().contains("was ended"));
        assert_eq!(built.output, ["begun"]);
        // Its output was closed: nobody holds the other end.
        assert!(built.took < Duration::from_secs(60));
    }

    #[test]
    fn a_build_that_fails_says_how_and_what_it_wrote() {
        let built = build("echo one; echo two >&2; exit 3", Duration::from_secs(60));
        assert!(built.outcome.unwrap_err().contains("exit status: 3"));
        assert_eq!(built.output.len(), 2);
        let missing = Build::start(Path::new("."), &["no-such-compiler".to_owned()], Duration::from_secs(1));
        assert!(missing.is_err_and(|error| error.contains("no-such-compiler") && error.contains("installed")));
    }
}
