//! An actor a script, linked to a supervisor that starts again whichever fails.

use crate::{DT, Positions, micros, positions, say_calls, step};
use peer_common::{cpu_us, emit, median, resident_kib};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use std::collections::HashMap;
use std::time::Instant;
use tokio::sync::mpsc::{self, UnboundedSender};

struct Script;

struct ScriptState {
    i: usize,
    positions: Positions,
    back: UnboundedSender<()>,
}

enum ScriptMessage {
    Tick(f32),
    Crash,
    Call(u64, RpcReplyPort<u64>),
}

impl Actor for Script {
    type Msg = ScriptMessage;
    type State = ScriptState;
    type Arguments = ScriptState;

    async fn pre_start(&self, _: ActorRef<ScriptMessage>, state: ScriptState) -> Result<ScriptState, ActorProcessingErr> {
        let _ = state.back.send(());
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<ScriptMessage>,
        message: ScriptMessage,
        state: &mut ScriptState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ScriptMessage::Tick(dt) => {
                step(&state.positions, state.i, dt);
                let _ = state.back.send(());
            }
            ScriptMessage::Crash => return Err("crash".into()),
            ScriptMessage::Call(value, reply) => drop(reply.send(value + 1)),
        }
        Ok(())
    }
}

struct Supervisor;

struct SupervisorState {
    positions: Positions,
    back: UnboundedSender<()>,
    numbers: HashMap<ActorId, usize>,
    children: Vec<ActorRef<ScriptMessage>>,
}

impl SupervisorState {
    async fn start(&mut self, me: &ActorRef<SupervisorMessage>, i: usize) -> Result<ActorRef<ScriptMessage>, ActorProcessingErr> {
        let state = ScriptState { i, positions: self.positions.clone(), back: self.back.clone() };
        let (child, _) = Actor::spawn_linked(None, Script, state, me.get_cell()).await?;
        self.numbers.insert(child.get_id(), i);
        Ok(child)
    }
}

enum SupervisorMessage {
    Crash(usize),
    Children(RpcReplyPort<Vec<ActorRef<ScriptMessage>>>),
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = (usize, UnboundedSender<()>);

    async fn pre_start(
        &self,
        me: ActorRef<SupervisorMessage>,
        (n, back): Self::Arguments,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let mut state = SupervisorState { positions: positions(n), back, numbers: HashMap::default(), children: Vec::new() };
        for i in 0..n {
            let child = state.start(&me, i).await?;
            state.children.push(child);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Crash(i) => drop(state.children[i].cast(ScriptMessage::Crash)),
            SupervisorMessage::Children(reply) => drop(reply.send(state.children.clone())),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(child, _) = event
            && let Some(i) = state.numbers.remove(&child.get_id())
        {
            state.children[i] = state.start(&me, i).await?;
        }
        Ok(())
    }
}

pub async fn run(w: &str, n: usize) {
    let say = |metric: &str, value: f64| emit(w, "ractor", n, metric, value);
    let (back, mut came) = mpsc::unbounded_channel();
    match w {
        "W1" => {
            let (supervisor, _) = Actor::spawn(None, Supervisor, (n, back)).await.unwrap();
            let children = ractor::call!(supervisor, SupervisorMessage::Children).unwrap();
            for _ in 0..n {
                came.recv().await;
            }
            let (mut times, begun) = (Vec::new(), Instant::now());
            while times.len() < 50 || begun.elapsed().as_millis() < 600 {
                let before = cpu_us();
                for child in &children {
                    let _ = child.cast(ScriptMessage::Tick(DT));
                }
                for _ in 0..n {
                    came.recv().await;
                }
                times.push(cpu_us() - before);
            }
            say("tick_ns", median(&mut times) * 1e3 / n as f64);
        }
        "W3" => {
            let _one = Actor::spawn(None, Supervisor, (1, back.clone())).await.unwrap();
            came.recv().await;
            let (memory, before) = (resident_kib(), cpu_us());
            let _all = Actor::spawn(None, Supervisor, (n, back)).await.unwrap();
            for _ in 0..n {
                came.recv().await;
            }
            say("start_us", (cpu_us() - before) / n as f64);
            say("memory_kib", (resident_kib() - memory) / n as f64);
        }
        "W3w" => {
            let (memory, before, mut worlds) = (resident_kib(), cpu_us(), Vec::new());
            for _ in 0..n {
                worlds.push(Actor::spawn(None, Supervisor, (10, back.clone())).await.unwrap());
            }
            for _ in 0..n * 10 {
                came.recv().await;
            }
            say("world_start_us", (cpu_us() - before) / n as f64);
            say("world_kib", (resident_kib() - memory) / n as f64);
        }
        "W6" => {
            let (supervisor, _) = Actor::spawn(None, Supervisor, (n, back.clone())).await.unwrap();
            for _ in 0..n {
                came.recv().await;
            }
            let mut backs = Vec::new();
            for _ in 0..20 {
                let before = cpu_us();
                for k in 0..100 {
                    let _ = supervisor.cast(SupervisorMessage::Crash(k * (n / 100)));
                }
                for _ in 0..100 {
                    came.recv().await;
                }
                backs.push(cpu_us() - before);
            }
            say("restart_us", median(&mut backs));
            let mut worlds = Vec::new();
            let (mut world, mut end) = Actor::spawn(None, Supervisor, (10, back.clone())).await.unwrap();
            for _ in 0..10 {
                came.recv().await;
            }
            for _ in 0..20 {
                let before = cpu_us();
                world.kill();
                end.await.unwrap();
                (world, end) = Actor::spawn(None, Supervisor, (10, back.clone())).await.unwrap();
                for _ in 0..10 {
                    came.recv().await;
                }
                worlds.push(cpu_us() - before);
            }
            say("world_us", median(&mut worlds));
        }
        "W7" => {
            let state = ScriptState { i: 0, positions: positions(1), back };
            let (script, _) = Actor::spawn(None, Script, state).await.unwrap();
            let mut times = Vec::new();
            for i in 0..50_000 {
                let begun = Instant::now();
                ractor::call!(script, ScriptMessage::Call, i).unwrap();
                times.push(micros(begun));
            }
            say_calls("ractor", w, times);
            let begun = Instant::now();
            let clients: Vec<_> = (0..64)
                .map(|_| {
                    let script = script.clone();
                    tokio::spawn(async move {
                        for i in 0..3_000 {
                            ractor::call!(script, ScriptMessage::Call, i).unwrap();
                        }
                    })
                })
                .collect();
            for client in clients {
                client.await.unwrap();
            }
            emit(w, "ractor", 64, "calls_per_s", 1e6 * 64.0 * 3_000.0 / micros(begun));
        }
        _ => {}
    }
}
