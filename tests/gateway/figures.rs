//! What watching costs, by the real program. Not run by default:
//! `cargo test --release --workspace --test all gateway::figures -- --ignored --nocapture`.

use super::player::{News, Player};
use super::{OPEN, SKY, Site, TOWN};
use rustix::process::Pid;
use std::time::{Duration, Instant};

/// CPU seconds of a process by the names of its threads.
fn cpu(pid: Pid) -> Vec<(String, f64)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
    let task = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        // utime and stime, in hundredths.
        let ticks: f64 = fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?;
        Some((head.split_once('(')?.1.to_owned(), ticks / 100.0))
    };
    tasks.filter_map(task).collect()
}

fn of(threads: &[(String, f64)], begin: &str) -> f64 {
    threads.iter().filter(|(name, _)| name.starts_with(begin)).map(|(_, seconds)| seconds).sum()
}

#[test]
#[ignore = "figures, for a quiet machine"]
fn bytes_and_cpu_of_a_world_with_0_1_and_100_who_watch() {
    for (name, worlds, world) in [("town, 20 Hz", TOWN, "town"), ("sky, 600 birds, 60 Hz", SKY, "sky")] {
        let site = Site::start(OPEN, worlds);
        let pid = Pid::from_child(&site.node);
        for count in [0, 1, 100] {
            let players: Vec<_> = (0..count).map(|number| site.join(world, &format!("p{number}"))).collect();
            // Those who came last have been shown to the others.
            std::thread::sleep(Duration::from_secs(2));
            let before = cpu(pid);
            let begin = Instant::now();
            let seen: Vec<_> = std::thread::scope(|scope| {
                let watch = |mut player: Player| {
                    move || {
                        let (bytes, mut ticks) = (player.bytes, 0u64);
                        while begin.elapsed() < Duration::from_secs(20) {
                            ticks += u64::from(matches!(player.next(), News::Tick { .. }));
                        }
                        (player.bytes - bytes, ticks)
                    }
                };
                let watching: Vec<_> = players.into_iter().map(|player| scope.spawn(watch(player))).collect();
                if watching.is_empty() {
                    std::thread::sleep(Duration::from_secs(20));
                }
                watching.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let (after, seconds) = (cpu(pid), begin.elapsed().as_secs_f64());
            let share = |begin: &str| (of(&after, begin) - of(&before, begin)) / seconds * 100.0;
            let (bytes, ticks) = seen.iter().fold((0, 0), |(b, t), (bytes, ticks)| (b + bytes, t + ticks));
            eprintln!(
                "{name}, {count} watching: {:.0} bytes a tick for each, {:.1} KB/s in all; CPU: tick threads {:.2}%, gateway {:.2}%",
                bytes as f64 / ticks.max(1) as f64,
                bytes as f64 / seconds / 1e3,
                share("tick"),
                share("gateway")
            );
        }
    }
}
