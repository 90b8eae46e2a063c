//! WASI preview 1, for scripts whose policy allows it: the least that works.
//!
//! Files live in one directory of the script's own (`cap-std` keeps every path inside), the clock is the world's, randomness comes
//! from the script's seed, standard output goes to its log, sockets exist but none is open. What makes no sense for a script
//! answers `ENOSYS`. Which categories a script may import is decided when it is loaded: see `policy`.

use crate::abi::{HostGroup, WASI_IMPORTS, WASI_MODULE, cost, limit};
use crate::call::exit;
use crate::data::ScriptData;
use crate::host::{self, Guest, GuestMemory, charge, costly, enter, with_world};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions};
use rand_core::Rng;
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use wasmtime::{FuncType, Linker, Result, Val, ValType};

const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const EXIST: i32 = 20;
const FAULT: i32 = 21;
const INVAL: i32 = 28;
const IO: i32 = 29;
const NFILE: i32 = 41;
const NOENT: i32 = 44;
const NOSPC: i32 = 51;
const NOSYS: i32 = 52;
const NOTCAPABLE: i32 = 76;

/// The descriptor of the script's directory.
const DIRECTORY: i32 = 3;
/// Files open at a time.
const FILES_MAX: usize = 16;
/// Bytes that one instance may write in its life: its directory is on the node's disk.
const WRITTEN_MAX: u64 = 64 << 20;
/// Bytes moved by one call.
const TRANSFER_MAX: usize = 1 << 20;

/// Open files of a script.
pub(crate) struct WasiState {
    directory: Option<Dir>,
    files: BTreeMap<i32, File>,
    written: u64,
}

impl WasiState {
    /// Open the script's directory, if it has one.
    pub(crate) fn open(directory: Option<&Path>) -> io::Result<WasiState> {
        let open = |path: &Path| {
            std::fs::create_dir_all(path)?;
            Dir::open_ambient_dir(path, ambient_authority())
        };
        Ok(WasiState { directory: directory.map(open).transpose()?, files: BTreeMap::new(), written: 0 })
    }

    fn directory(&self, fd: i32) -> Errno<&Dir> {
        if fd != DIRECTORY {
            return Err(BADF);
        }
        self.directory.as_ref().ok_or(NOTCAPABLE)
    }

    fn file(&mut self, fd: i32) -> Errno<&mut File> {
        self.files.get_mut(&fd).ok_or(BADF)
    }
}

type Errno<T> = std::result::Result<T, i32>;

fn errno(error: io::Error) -> i32 {
    match error.kind() {
        io::ErrorKind::NotFound => NOENT,
        io::ErrorKind::AlreadyExists => EXIST,
        // cap-std's answer to a path that leads outside.
        io::ErrorKind::PermissionDenied => NOTCAPABLE,
        io::ErrorKind::InvalidInput => INVAL,
        io::ErrorKind::StorageFull => NOSPC,
        _ => IO,
    }
}

fn lower(result: Errno<()>) -> i32 {
    result.err().unwrap_or(SUCCESS)
}

/// Memory and files of the calling script.
fn with_files<R>(guest: &mut Guest<'_>, f: impl FnOnce(&mut GuestMemory<'_>, &mut WasiState) -> Errno<R>) -> Errno<R> {
    let Some(memory) = guest.data().memory else { return Err(FAULT) };
    let (bytes, data) = memory.data_and_store_mut(guest);
    let state = data.wasi.as_mut().ok_or(NOSYS)?;
    f(&mut GuestMemory(bytes), state)
}

fn put(memory: &mut GuestMemory<'_>, address: i32, bytes: &[u8]) -> Errno<()> {
    memory.write(address as u32, bytes).map_err(|_| FAULT)
}

fn path<'a>(memory: &'a GuestMemory<'_>, address: i32, length: i32) -> Errno<&'a str> {
    let text = memory.text(address, length, 4096).map_err(|_| FAULT)?;
    Ok(text.trim_start_matches('/'))
}

/// The (address, length) pairs of a scatter or gather list; their sum is bounded.
fn vectors(memory: &GuestMemory<'_>, list: i32, count: i32) -> Errno<Vec<(i32, usize)>> {
    if !(0..=64).contains(&count) {
        return Err(INVAL);
    }
    let bytes = memory.slice(list, count as usize * 8).map_err(|_| FAULT)?;
    let number = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let list: Vec<_> = bytes.chunks_exact(8).map(|b| (number(b) as i32, number(&b[4..]) as usize)).collect();
    if list.iter().map(|(_, length)| *length).sum::<usize>() > TRANSFER_MAX {
        return Err(INVAL);
    }
    Ok(list)
}

/// Link every function of [`WASI_IMPORTS`]: those below do something, the others answer `ENOSYS`.
pub(crate) fn link(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    linker.allow_shadowing(true);
    for (name, signature) in WASI_IMPORTS {
        let (parameters, results) = types(signature);
        let ty = FuncType::new(linker.engine(), parameters, results);
        linker.func_new(WASI_MODULE, name, ty, |mut guest, _, results| {
            enter(&mut guest, HostGroup::Script, 0)?;
            if let Some(result) = results.first_mut() {
                *result = Val::I32(NOSYS);
            }
            Ok(())
        })?;
    }
    link_process(linker, fibre)?;
    link_files(linker, fibre)?;
    link_paths(linker, fibre)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn types(signature: &str) -> (Vec<ValType>, Vec<ValType>) {
    let list = |text: &str| {
        text.split(',')
            .filter(|t| !t.is_empty())
            .map(|t| match t {
                "i64" => ValType::I64,
                _ => ValType::I32,
            })
            .collect()
    };
    let (parameters, results) = signature.split_once("->").unwrap_or((signature, ""));
    (list(parameters.trim_matches(['(', ')'])), list(results))
}

fn link_process(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    for name in ["args_sizes_get", "environ_sizes_get"] {
        linker.func_wrap(WASI_MODULE, name, |mut guest: Guest<'_>, count: i32, size: i32| -> Result<i32> {
            enter(&mut guest, HostGroup::Script, 0)?;
            Ok(lower(with_files(&mut guest, |memory, _| {
                put(memory, count, &[0; 4])?;
                put(memory, size, &[0; 4])
            })))
        })?;
    }
    for name in ["args_get", "environ_get"] {
        linker.func_wrap(WASI_MODULE, name, |mut guest: Guest<'_>, _: i32, _: i32| -> Result<i32> {
            enter(&mut guest, HostGroup::Script, 0)?;
            Ok(SUCCESS)
        })?;
    }
    linker.func_wrap(WASI_MODULE, "proc_exit", |_: Guest<'_>, _: i32| -> Result<()> { Err(exit()) })?;
    linker.func_wrap(WASI_MODULE, "sched_yield", |mut guest: Guest<'_>| -> Result<i32> {
        enter(&mut guest, HostGroup::Script, 0)?;
        Ok(SUCCESS)
    })?;
    linker.func_wrap(WASI_MODULE, "clock_time_get", |mut guest: Guest<'_>, _: i32, _: i64, out: i32| -> Result<i32> {
        enter(&mut guest, HostGroup::Script, 0)?;
        let now = with_world(&mut guest, |_, world, _| Ok(world.now_ns)).unwrap_or(0);
        Ok(lower(with_files(&mut guest, |memory, _| put(memory, out, &now.to_le_bytes()))))
    })?;
    linker.func_wrap(WASI_MODULE, "clock_res_get", |mut guest: Guest<'_>, _: i32, out: i32| -> Result<i32> {
        enter(&mut guest, HostGroup::Script, 0)?;
        Ok(lower(with_files(&mut guest, |memory, _| put(memory, out, &1_000_000u64.to_le_bytes()))))
    })?;
    costly!(linker, fibre, WASI_MODULE, "random_get", |guest, out: i32, length: i32| -> i32 {
        let length = length as u32 as usize;
        enter(guest, HostGroup::Script, length.min(TRANSFER_MAX) as u64 * cost::BYTE)?;
        let Some(memory) = guest.data().memory else { return Ok(FAULT) };
        let (bytes, data) = memory.data_and_store_mut(guest);
        match GuestMemory(bytes).slice_mut(out, length) {
            Ok(_) if length > TRANSFER_MAX => Ok(INVAL),
            Ok(bytes) => {
                data.own.random().fill_bytes(bytes);
                Ok(SUCCESS)
            }
            Err(_) => Ok(FAULT),
        }
    });
    Ok(())
}

fn link_files(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    linker.func_wrap(WASI_MODULE, "fd_prestat_get", |mut guest: Guest<'_>, fd: i32, out: i32| -> Result<i32> {
        enter(&mut guest, HostGroup::Script, 0)?;
        Ok(lower(with_files(&mut guest, |memory, state| {
            state.directory(fd).map_err(|_| BADF)?;
            // Tag 0: a directory; then the length of its name, "/".
            put(memory, out, &[0, 0, 0, 0, 1, 0, 0, 0])
        })))
    })?;
    linker.func_wrap(
        WASI_MODULE,
        "fd_prestat_dir_name",
        |mut guest: Guest<'_>, fd: i32, out: i32, length: i32| -> Result<i32> {
            enter(&mut guest, HostGroup::Script, 0)?;
            Ok(lower(with_files(&mut guest, |memory, state| {
                state.directory(fd).map_err(|_| BADF)?;
                if length < 1 { Err(INVAL) } else { put(memory, out, b"/") }
            })))
        },
    )?;
    linker.func_wrap(WASI_MODULE, "fd_fdstat_get", |mut guest: Guest<'_>, fd: i32, out: i32| -> Result<i32> {
        enter(&mut guest, HostGroup::Script, 0)?;
        Ok(lower(with_files(&mut guest, |memory, state| {
            let kind: u8 = match fd {
                0..=2 => 2,
                DIRECTORY => 3,
                fd if state.files.contains_key(&fd) => 4,
                _ => return Err(BADF),
            };
            let mut stat = [0; 24];
            stat[0] = kind;
            // All rights: what is refused is refused by the call.
            stat[8..24].fill(0xff);
            put(memory, out, &stat)
        })))
    })?;
    linker.func_wrap(WASI_MODULE, "fd_close", |mut guest: Guest<'_>, fd: i32| -> Result<i32> {
        enter(&mut guest, HostGroup::Script, 0)?;
        Ok(lower(with_files(&mut guest, |_, state| state.files.remove(&fd).map(drop).ok_or(BADF))))
    })?;
    costly!(linker, fibre, WASI_MODULE, "fd_read", |guest, fd: i32, list: i32, count: i32, out: i32| -> i32 {
        enter(guest, HostGroup::Storage, cost::STORAGE)?;
        let mut moved = 0;
        let result = with_files(guest, |memory, state| {
            for (address, length) in vectors(memory, list, count)? {
                let room = memory.slice_mut(address, length).map_err(|_| FAULT)?;
                let read = state.file(fd)?.read(room).map_err(errno)?;
                moved += read as u32;
                if read < length {
                    break;
                }
            }
            put(memory, out, &moved.to_le_bytes())
        });
        charge(guest, u64::from(moved) * cost::BYTE)?;
        Ok(lower(result))
    });
    costly!(linker, fibre, WASI_MODULE, "fd_write", |guest, fd: i32, list: i32, count: i32, out: i32| -> i32 {
        enter(guest, HostGroup::Storage, cost::STORAGE)?;
        let mut text = Vec::new();
        let mut moved = 0;
        let result = with_files(guest, |memory, state| {
            for (address, length) in vectors(memory, list, count)? {
                let bytes = memory.slice(address, length).map_err(|_| FAULT)?;
                if fd == 1 || fd == 2 {
                    text.extend_from_slice(bytes);
                } else {
                    state.written += length as u64;
                    if state.written > WRITTEN_MAX {
                        return Err(NOSPC);
                    }
                    state.file(fd)?.write_all(bytes).map_err(errno)?;
                }
                moved += length as u32;
            }
            put(memory, out, &moved.to_le_bytes())
        });
        charge(guest, u64::from(moved) * cost::BYTE)?;
        let level = if fd == 2 { 1 } else { 2 };
        // A handful: the world's allowance of log lines would drop the rest.
        for line in String::from_utf8_lossy(&text[..text.len().min(4 * limit::TEXT_BYTES)])
            .lines()
            .filter(|line| !line.is_empty())
            .take(16)
        {
            let line: String = line.chars().take(limit::TEXT_BYTES / 4).collect();
            // Over the allowance: dropped, as any log line.
            let _ = with_world(guest, |_, world, own| host::log(world, own, level, &line));
        }
        Ok(lower(result))
    });
    costly!(linker, fibre, WASI_MODULE, "fd_seek", |guest, fd: i32, offset: i64, whence: i32, out: i32| -> i32 {
        enter(guest, HostGroup::Storage, cost::STORAGE)?;
        Ok(lower(with_files(guest, |memory, state| {
            let to = match whence {
                0 => SeekFrom::Start(u64::try_from(offset).map_err(|_| INVAL)?),
                1 => SeekFrom::Current(offset),
                2 => SeekFrom::End(offset),
                _ => return Err(INVAL),
            };
            let at = state.file(fd)?.seek(to).map_err(errno)?;
            put(memory, out, &at.to_le_bytes())
        })))
    });
    costly!(linker, fibre, WASI_MODULE, "fd_tell", |guest, fd: i32, out: i32| -> i32 {
        enter(guest, HostGroup::Storage, cost::STORAGE)?;
        Ok(lower(with_files(guest, |memory, state| {
            let at = state.file(fd)?.stream_position().map_err(errno)?;
            put(memory, out, &at.to_le_bytes())
        })))
    });
    costly!(linker, fibre, WASI_MODULE, "fd_filestat_get", |guest, fd: i32, out: i32| -> i32 {
        enter(guest, HostGroup::Storage, cost::STORAGE)?;
        Ok(lower(with_files(guest, |memory, state| {
            let stat = state.file(fd)?.metadata().map_err(errno)?;
            put(memory, out, &filestat(stat.is_dir(), stat.len()))
        })))
    });
    Ok(())
}

/// Type and size; the rest (device, inode, links, times) is zero: it would tell of the node.
fn filestat(is_dir: bool, size: u64) -> [u8; 64] {
    let mut stat = [0; 64];
    stat[16] = if is_dir { 3 } else { 4 };
    stat[32..40].copy_from_slice(&size.to_le_bytes());
    stat
}

fn link_paths(linker: &mut Linker<ScriptData>, fibre: bool) -> Result<()> {
    costly!(linker, fibre, WASI_MODULE, "path_open", |guest,
                                                      fd: i32,
                                                      _lookup: i32,
                                                      name: i32,
                                                      length: i32,
                                                      flags: i32,
                                                      rights: i64,
                                                      _inheriting: i64,
                                                      fdflags: i32,
                                                      out: i32|
     -> i32 {
        enter(guest, HostGroup::Storage, cost::STORAGE)?;
        Ok(lower(with_files(guest, |memory, state| {
            if state.files.len() >= FILES_MAX {
                return Err(NFILE);
            }
            let write = rights & (1 << 6) != 0;
            let mut options = OpenOptions::new();
            options.read(rights & (1 << 1) != 0 || !write).write(write);
            options.create(flags & 1 != 0).truncate(flags & 8 != 0 && write).append(fdflags & 1 != 0 && write);
            if flags & 4 != 0 {
                options.create_new(true);
            }
            let file = state.directory(fd)?.open_with(path(memory, name, length)?, &options).map_err(errno)?;
            let new = (DIRECTORY + 1..).find(|fd| !state.files.contains_key(fd)).ok_or(NFILE)?;
            put(memory, out, &new.to_le_bytes())?;
            state.files.insert(new, file);
            Ok(())
        })))
    });
    costly!(linker, fibre, WASI_MODULE, "path_filestat_get", |guest,
                                                              fd: i32,
                                                              _lookup: i32,
                                                              name: i32,
                                                              length: i32,
                                                              out: i32|
     -> i32 {
        enter(guest, HostGroup::Storage, cost::STORAGE)?;
        Ok(lower(with_files(guest, |memory, state| {
            let stat = state.directory(fd)?.metadata(path(memory, name, length)?).map_err(errno)?;
            put(memory, out, &filestat(stat.is_dir(), stat.len()))
        })))
    });
    costly!(linker, fibre, WASI_MODULE, "path_unlink_file", |guest, fd: i32, name: i32, length: i32| -> i32 {
        enter(guest, HostGroup::Storage, cost::STORAGE)?;
        Ok(lower(with_files(guest, |memory, state| state.directory(fd)?.remove_file(path(memory, name, length)?).map_err(errno))))
    });
    costly!(linker, fibre, WASI_MODULE, "path_create_directory", |guest, fd: i32, name: i32, length: i32| -> i32 {
        enter(guest, HostGroup::Storage, cost::STORAGE)?;
        Ok(lower(with_files(guest, |memory, state| state.directory(fd)?.create_dir(path(memory, name, length)?).map_err(errno))))
    });
    Ok(())
}
