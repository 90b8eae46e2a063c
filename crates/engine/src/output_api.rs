//! [`UIApi`] and [`AudioApi`]: commands to clients, in the order they were made.

use crate::engine::Engine;
use aether_scripting::output::ClientCommand;
use aether_scripting::{ApiError, ApiResult, AudioApi, InstanceId, PlayerId, SoundParameters, UIApi, Vec3};
use std::collections::BTreeMap;

/// Sounds that may go on: who started them. One that plays once is forgotten by clients when it ends, and here when there are too many.
#[derive(Debug, Default)]
pub(crate) struct Sounds {
    pub next: u64,
    pub owners: BTreeMap<u64, InstanceId>,
}

/// Sounds of a world that scripts can still change.
const SOUNDS_MAX: usize = 4_096;

impl Sounds {
    fn start(&mut self, owner: InstanceId) -> u64 {
        self.next += 1;
        self.owners.insert(self.next, owner);
        while self.owners.len() > SOUNDS_MAX {
            self.owners.pop_first();
        }
        self.next
    }

    fn check(&self, handle: u64, owner: InstanceId) -> ApiResult<()> {
        match self.owners.get(&handle) {
            Some(found) if *found == owner => Ok(()),
            Some(_) => Err(ApiError::Denied),
            None => Err(ApiError::NotFound),
        }
    }

    pub fn take_of(&mut self, owner: InstanceId) -> Vec<u64> {
        let handles: Vec<_> = self.owners.iter().filter(|(_, found)| **found == owner).map(|(handle, _)| *handle).collect();
        for handle in &handles {
            self.owners.remove(handle);
        }
        handles
    }
}

impl UIApi for Engine {
    fn show_element(&mut self, player: PlayerId, element: &str, text: &str) -> ApiResult<()> {
        self.command(ClientCommand::ShowElement { player, element: element.to_owned(), text: text.to_owned() });
        Ok(())
    }

    fn hide_element(&mut self, player: PlayerId, element: &str) -> ApiResult<()> {
        self.command(ClientCommand::HideElement { player, element: element.to_owned() });
        Ok(())
    }

    fn update_text(&mut self, player: PlayerId, element: &str, text: &str) -> ApiResult<()> {
        self.command(ClientCommand::SetText { player, element: element.to_owned(), text: text.to_owned() });
        Ok(())
    }
}

impl Engine {
    fn own_sound(&self, handle: u64) -> ApiResult<()> {
        self.sounds.check(handle, self.callers.current()?.info.instance)
    }
}

impl AudioApi for Engine {
    fn play_sound(&mut self, sound: &str, position: Vec3, parameters: SoundParameters, looped: bool) -> ApiResult<u64> {
        let handle = self.sounds.start(self.callers.current()?.info.instance);
        self.command(ClientCommand::PlaySound { handle, sound: sound.to_owned(), position, parameters, looped });
        Ok(handle)
    }

    fn stop_sound(&mut self, handle: u64) -> ApiResult<()> {
        self.own_sound(handle)?;
        self.sounds.owners.remove(&handle);
        self.command(ClientCommand::StopSound { handle });
        Ok(())
    }

    fn set_sound_position(&mut self, handle: u64, position: Vec3) -> ApiResult<()> {
        self.own_sound(handle)?;
        self.command(ClientCommand::MoveSound { handle, position });
        Ok(())
    }

    fn set_sound_parameters(&mut self, handle: u64, parameters: SoundParameters) -> ApiResult<()> {
        self.own_sound(handle)?;
        self.command(ClientCommand::TuneSound { handle, parameters });
        Ok(())
    }
}
