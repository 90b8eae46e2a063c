//! A player's client for tests, written from the protocol's description and not from its code: a WebSocket, the frames, and what the
//! player knows.
//!
//! Start with [`Player::join`]. What a frame breaks of the rules (ticks that do not rise, entities that go and were not there) is a panic.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

/// Of every wait, on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);
const STEP: f32 = 1.0 / 512.0;

#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    pub id: u64,
    pub kind: String,
    pub x: f32,
    pub y: f32,
    pub z: f32,
}

/// Something that came, beside what it changed of what the player knows.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    Welcome {
        player: u64,
        world: String,
        name: String,
    },
    Snapshot {
        tick: u64,
    },
    Tick {
        tick: u64,
    },
    /// Element and text.
    Text {
        tick: u64,
        element: String,
        text: String,
    },
    Hide {
        element: String,
    },
    Sound {
        sound: String,
    },
    Event {
        topic: String,
        payload: Vec<u8>,
    },
    Resync {
        reason: u8,
    },
    Refused {
        reason: u8,
    },
    Closed {
        code: u16,
        reason: String,
    },
}

pub struct Player {
    socket: WebSocket<TcpStream>,
    pub kinds: BTreeMap<u16, String>,
    pub entities: BTreeMap<u32, Entity>,
    pub elements: BTreeMap<String, String>,
    /// Its own entity, if a script told it.
    pub me: Option<u64>,
    /// All that came and was not taken yet, oldest first.
    news: std::collections::VecDeque<News>,
    last_tick: u64,
    closed: bool,
    pub bytes: u64,
    pub messages: u64,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> u64 {
        self.take(bytes).iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn i24(&mut self) -> i32 {
        (self.number(3) as i32) << 8 >> 8
    }

    fn f32(&mut self) -> f32 {
        f32::from_bits(self.number(4) as u32)
    }

    fn text(&mut self, length_bytes: usize) -> String {
        let length = self.number(length_bytes) as usize;
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    fn pose(&mut self) -> [f32; 3] {
        let at = [self.i24(), self.i24(), self.i24()].map(|steps| steps as f32 * STEP);
        self.take(2);
        at
    }
}

/// A hello of this version.
pub fn hello(world: &str, name: &str, token: &str) -> Vec<u8> {
    hello_of((1, 1), world, name, token)
}

pub fn hello_of(versions: (u8, u8), world: &str, name: &str, token: &str) -> Vec<u8> {
    let mut frame = vec![1];
    frame.extend(b"AETH");
    frame.extend([versions.0, versions.1]);
    for text in [world, name] {
        frame.push(text.len() as u8);
        frame.extend(text.bytes());
    }
    frame.extend((token.len() as u16).to_le_bytes());
    frame.extend(token.bytes());
    frame
}

impl Player {
    /// A connection without a hello.
    #[track_caller]
    pub fn dial(address: SocketAddr) -> Player {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://{address}/play"), stream).unwrap();
        Player {
            socket,
            kinds: BTreeMap::new(),
            entities: BTreeMap::new(),
            elements: BTreeMap::new(),
            me: None,
            news: std::collections::VecDeque::new(),
            last_tick: 0,
            closed: false,
            bytes: 0,
            messages: 0,
        }
    }

    /// A connection with one.
    #[track_caller]
    pub fn greet(address: SocketAddr, world: &str, name: &str, token: &str) -> Player {
        let mut player = Player::dial(address);
        player.send_raw(hello(world, name, token));
        player
    }

    /// A player who is in and has been shown the world.
    #[track_caller]
    pub fn join(address: SocketAddr, world: &str, name: &str, token: &str) -> Player {
        let mut player = Player::greet(address, world, name, token);
        let first = player.next();
        assert!(matches!(&first, News::Welcome { world: of, .. } if of == world), "{first:?}");
        player.until("a snapshot", |_, news| matches!(news, News::Snapshot { .. }));
        player
    }

    pub fn send_raw(&mut self, frame: Vec<u8>) {
        // What the other side does with it is what is tested.
        let _ = self.socket.send(Message::Binary(frame.into()));
    }

    #[allow(dead_code, reason = "not both test binaries send other messages")]
    pub fn send_message(&mut self, message: Message) {
        let _ = self.socket.send(message);
    }

    pub fn input(&mut self, script: &str, method: &str, payload: &[u8]) {
        let mut frame = vec![2, 1, 0, 0, 0];
        for text in [script, method] {
            frame.push(text.len() as u8);
            frame.extend(text.bytes());
        }
        frame.extend(payload);
        self.send_raw(frame);
    }

    /// East and south, -1 to 1.
    pub fn walk(&mut self, x: f32, z: f32) {
        self.input("avatar", "walk", &[x, z].map(|part| ((part * 127.0) as i8) as u8));
    }

    /// Its own entity, once a script has told which and it is there.
    pub fn own(&self) -> Option<&Entity> {
        self.entities.values().find(|entity| Some(entity.id) == self.me)
    }

    pub fn last_tick(&self) -> u64 {
        self.last_tick
    }

    /// The next thing that comes; the connection's end comes once.
    #[track_caller]
    pub fn next(&mut self) -> News {
        loop {
            if let Some(news) = self.news.pop_front() {
                return news;
            }
            assert!(!self.closed, "the connection is closed");
            match self.socket.read() {
                Ok(Message::Binary(frame)) => {
                    self.bytes += frame.len() as u64;
                    self.messages += 1;
                    self.take_frame(&frame);
                }
                Ok(Message::Close(close)) => {
                    self.closed = true;
                    let code = close.as_ref().map_or(1005, |close| u16::from(close.code));
                    let reason = close.map_or_else(String::new, |close| close.reason.to_string());
                    self.news.push_back(News::Closed { code, reason });
                }
                Ok(_) => {}
                Err(error) => {
                    self.closed = true;
                    self.news.push_back(News::Closed { code: CloseCode::Abnormal.into(), reason: error.to_string() });
                }
            }
        }
    }

    /// Read until something comes, and give it.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut wanted: impl FnMut(&Player, &News) -> bool) -> News {
        let deadline = Instant::now() + PATIENCE;
        let mut last = Vec::new();
        loop {
            assert!(Instant::now() < deadline, "waited for {what} in vain; last came {last:?}");
            let news = self.next();
            if wanted(self, &news) {
                return news;
            }
            assert!(!matches!(news, News::Closed { .. }), "waited for {what}: {news:?} after {last:?}");
            last.push(news);
            if last.len() > 8 {
                last.remove(0);
            }
        }
    }

    /// Read until the connection ends; the code and reason.
    #[track_caller]
    pub fn end(&mut self) -> (u16, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "the connection does not end");
            if let News::Closed { code, reason } = self.next() {
                return (code, reason);
            }
        }
    }

    fn take_frame(&mut self, frame: &[u8]) {
        let mut read = Reader(frame);
        match read.number(1) {
            0x81 => {
                assert_eq!(read.number(1), 1, "the version");
                let (player, hz) = (read.number(8), read.f32());
                assert!(hz > 0.0 && read.number(2) > 0);
                let (world, name) = (read.text(1), read.text(1));
                self.news.push_back(News::Welcome { player, world, name });
            }
            0x82 => {
                let tick = read.number(8);
                self.kinds.clear();
                self.entities.clear();
                self.take_kinds(&mut read);
                self.take_created(&mut read);
                self.last_tick = tick;
                self.news.push_back(News::Snapshot { tick });
            }
            0x83 => {
                let tick = read.number(8);
                assert!(tick > self.last_tick, "tick {tick} after {}", self.last_tick);
                self.take_kinds(&mut read);
                for _ in 0..read.number(3) {
                    let slot = read.number(3) as u32;
                    assert!(self.entities.remove(&slot).is_some(), "slot {slot} goes and was not there");
                }
                self.take_created(&mut read);
                for _ in 0..read.number(3) {
                    let slot = read.number(3) as u32;
                    let [x, y, z] = read.pose();
                    let entity = self.entities.get_mut(&slot).expect("who moves is there");
                    (entity.x, entity.y, entity.z) = (x, y, z);
                }
                self.last_tick = tick;
                self.news.push_back(News::Tick { tick });
            }
            0x84 => {
                let tick = read.number(8);
                for _ in 0..read.number(2) {
                    self.take_command(tick, &mut read);
                }
            }
            0x85 => {
                let reason = read.number(1) as u8;
                self.entities.clear();
                self.elements.clear();
                // A world that begins again may be behind what it never showed.
                (self.me, self.last_tick) = (None, 0);
                self.news.push_back(News::Resync { reason });
            }
            0x86 => {
                read.take(4);
                let reason = read.number(1) as u8;
                self.news.push_back(News::Refused { reason });
            }
            unknown => panic!("no frame begins with {unknown:#x}"),
        }
        assert!(read.0.is_empty(), "{} bytes too many in {:#x}", read.0.len(), frame[0]);
    }

    fn take_kinds(&mut self, read: &mut Reader<'_>) {
        for _ in 0..read.number(2) {
            let kind = read.number(2) as u16;
            self.kinds.insert(kind, read.text(1));
        }
    }

    fn take_created(&mut self, read: &mut Reader<'_>) {
        for _ in 0..read.number(3) {
            let (slot, id, kind) = (read.number(3) as u32, read.number(8), read.number(2) as u16);
            let [x, y, z] = read.pose();
            let kind = self.kinds.get(&kind).expect("a kind is named before it comes").clone();
            assert!(self.entities.insert(slot, Entity { id, kind, x, y, z }).is_none(), "slot {slot} is taken");
        }
    }

    fn take_command(&mut self, tick: u64, read: &mut Reader<'_>) {
        let news = match read.number(1) {
            which @ (1 | 3) => {
                let (element, text) = (read.text(1), read.text(2));
                if which == 1 || self.elements.contains_key(&element) {
                    self.elements.insert(element.clone(), text.clone());
                }
                News::Text { tick, element, text }
            }
            2 => {
                let element = read.text(1);
                self.elements.remove(&element);
                News::Hide { element }
            }
            4 => {
                read.take(8);
                let sound = read.text(1);
                read.take(25);
                News::Sound { sound }
            }
            5 => {
                read.take(8);
                return;
            }
            6 | 7 => {
                read.take(20);
                return;
            }
            8 => {
                let topic = read.text(1);
                let length = read.number(2) as usize;
                let payload = read.take(length).to_vec();
                if topic == "you" {
                    self.me = Some(u64::from_le_bytes(payload[..].try_into().unwrap()));
                }
                News::Event { topic, payload }
            }
            unknown => panic!("no command {unknown}"),
        };
        self.news.push_back(news);
    }
}
