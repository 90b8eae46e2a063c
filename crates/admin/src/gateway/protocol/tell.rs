//! What the gateway tells a client, frame by frame. The table of layouts is in the file above. Not here: when what is sent.

use super::bytes::Writer;
use super::{COMMANDS, REFUSED, RESYNC, Refusal, Resync, SNAPSHOT, TICK, VERSION, WELCOME};
use aether_cluster::{Changes, Created};
use aether_scripting::output::ClientCommand;

/// The answer to a good hello.
pub fn welcome(player: u64, tick_hz: f32, inputs_per_second: u16, world: &str, name: &str) -> Vec<u8> {
    let mut frame = Writer(Vec::with_capacity(64));
    frame.u8(WELCOME).u8(VERSION).u64(player).f32(tick_hz).u16(inputs_per_second).str8(world).str8(name);
    frame.0
}

/// All of a world.
pub fn snapshot<'a>(
    tick: u64,
    kinds: &[(u16, impl AsRef<str>)],
    entities: impl ExactSizeIterator<Item = &'a Created>,
) -> Vec<u8> {
    let mut frame = Writer(Vec::with_capacity(64 + 24 * entities.len()));
    frame.u8(SNAPSHOT).u64(tick).kinds(kinds).created(entities);
    frame.0
}

/// What a tick changed.
pub fn tick(tick: u64, changes: &Changes) -> Vec<u8> {
    let size = 32 + 3 * changes.gone.len() + 24 * changes.created.len() + 14 * changes.moved.len();
    let mut frame = Writer(Vec::with_capacity(size));
    frame.u8(TICK).u64(tick).kinds(&changes.kinds).u24(changes.gone.len() as u32);
    for slot in &changes.gone {
        frame.u24(*slot);
    }
    frame.created(changes.created.iter()).u24(changes.moved.len() as u32);
    for (slot, pose) in &changes.moved {
        frame.u24(*slot).pose(*pose);
    }
    frame.0
}

/// Bytes of commands after which another frame begins, so that a slow client's queue is counted in small pieces.
const COMMANDS_BYTES: usize = 32 << 10;

/// Commands of a tick as frames, each with the player whom it is for (0: all), in their order. An entity that is gone is in the tick's
/// own frame and left out here.
pub fn commands(tick: u64, commands: &[ClientCommand]) -> Vec<(u64, Vec<u8>)> {
    const COUNT_AT: usize = 9;
    let mut frames: Vec<(u64, Vec<u8>)> = Vec::new();
    for command in commands {
        let Some((player, bytes)) = one(command) else { continue };
        match frames.last_mut() {
            // At most so many bytes and one command more, which is less than the count can say.
            Some((of, frame)) if *of == player && frame.len() < COMMANDS_BYTES => {
                frame.extend(bytes);
                let count = u16::from_le_bytes([frame[COUNT_AT], frame[COUNT_AT + 1]]) + 1;
                frame[COUNT_AT..COUNT_AT + 2].copy_from_slice(&count.to_le_bytes());
            }
            _ => {
                let mut frame = Writer(Vec::new());
                frame.u8(COMMANDS).u64(tick).u16(1).raw(&bytes);
                frames.push((player, frame.0));
            }
        }
    }
    frames
}

fn one(command: &ClientCommand) -> Option<(u64, Vec<u8>)> {
    let mut to = Writer(Vec::new());
    let player = match command {
        ClientCommand::ShowElement { player, element, text } => {
            to.u8(1).str8(element).str16(text);
            player.0
        }
        ClientCommand::HideElement { player, element } => {
            to.u8(2).str8(element);
            player.0
        }
        ClientCommand::SetText { player, element, text } => {
            to.u8(3).str8(element).str16(text);
            player.0
        }
        ClientCommand::PlaySound { handle, sound, position, parameters, looped } => {
            to.u8(4).u64(*handle).str8(sound).vec3(*position).sound(*parameters).u8((*looped).into());
            0
        }
        ClientCommand::StopSound { handle } => {
            to.u8(5).u64(*handle);
            0
        }
        ClientCommand::MoveSound { handle, position } => {
            to.u8(6).u64(*handle).vec3(*position);
            0
        }
        ClientCommand::TuneSound { handle, parameters } => {
            to.u8(7).u64(*handle).sound(*parameters);
            0
        }
        ClientCommand::Event { player, topic, payload } => {
            to.u8(8).str8(topic).bytes16(payload);
            player.0
        }
        ClientCommand::Gone { .. } => return None,
    };
    Some((player, to.0))
}

/// Forget what is known.
pub fn resync(reason: Resync) -> Vec<u8> {
    vec![RESYNC, reason as u8]
}

/// An input was not passed on.
pub fn refused(number: u32, why: Refusal) -> Vec<u8> {
    let mut frame = Writer(Vec::with_capacity(6));
    frame.u8(REFUSED).raw(&number.to_le_bytes()).u8(why as u8);
    frame.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_cluster::Pose;
    use aether_scripting::{EntityId, PlayerId};

    #[test]
    fn the_layouts_are_those_of_the_table() {
        let pose = Pose { x: -1, y: 256, z: 2, yaw: 3 };
        let pose_bytes = [0xff, 0xff, 0xff, 0, 1, 0, 2, 0, 0, 3, 0];
        let created = Created { id: 5, slot: 0x01_0203, kind: 4, pose };
        let created_bytes = [&[3, 2, 1, 5, 0, 0, 0, 0, 0, 0, 0, 4, 0][..], &pose_bytes].concat();
        let changes =
            Changes { kinds: vec![(4, "cow".to_owned())], gone: vec![9], created: vec![created], moved: vec![(8, pose)] };
        let kinds = [1, 0, 4, 0, 3, b'c', b'o', b'w'];
        let seven = [7, 0, 0, 0, 0, 0, 0, 0];
        let one = [1, 0, 0];
        let wanted =
            [&[0x83][..], &seven, &kinds, &one, &[9, 0, 0], &one, &created_bytes, &one, &[8, 0, 0], &pose_bytes].concat();
        assert_eq!(tick(7, &changes), wanted);
        assert_eq!(snapshot(7, &changes.kinds, [created].iter()), [&[0x82][..], &seven, &kinds, &one, &created_bytes].concat());
        assert_eq!(refused(258, Refusal::Away), [0x86, 2, 1, 0, 0, 3]);
        assert_eq!(resync(Resync::Anew), [0x85, 2]);
        assert_eq!(
            welcome(7, 20.0, 30, "w", "n"),
            [&[0x81, 1][..], &seven, &20.0f32.to_le_bytes(), &[30, 0, 1, b'w', 1, b'n']].concat()
        );
    }

    #[test]
    fn commands_keep_their_order_and_are_split_by_whom_they_are_for() {
        let show = |player| ClientCommand::HideElement { player: PlayerId(player), element: "e".to_owned() };
        let gone = ClientCommand::Gone { entity: EntityId(1) };
        let frames = commands(3, &[show(0), gone, show(0), show(7), show(0)]);
        let counts: Vec<_> = frames.iter().map(|(player, frame)| (*player, frame[9], frame.len())).collect();
        assert_eq!(counts, [(0, 2, 17), (7, 1, 14), (0, 1, 14)]);
        let many: Vec<_> = (0..100_000).map(|_| show(0)).collect();
        let frames = commands(3, &many);
        let sum: usize = frames.iter().map(|(_, frame)| usize::from(u16::from_le_bytes([frame[9], frame[10]]))).sum();
        assert!(sum == many.len() && frames.iter().all(|(_, frame)| frame.len() < COMMANDS_BYTES + 64));
    }
}
