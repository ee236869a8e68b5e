//! The data directory: who holds it, what lies in it, and how much room is left.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::store::{Ballast, OpenError};

/// How often, and how far apart, sled's lock is tried: 5 seconds in all.
const SLED_LOCK_TRIES: u32 = 2_500;
const SLED_LOCK_PAUSE: Duration = Duration::from_millis(2);

/// A data directory that is ours for as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock. The file stays when the lock goes.
    lock: File,
    /// There is no lock file, and so what is locked keeps no daemon out.
    is_copy: bool,
}

impl DataDir {
    /// Creates the directory where it is missing, for the owner only, and locks it.
    pub fn claim(path: &Path) -> Result<DataDir, OpenError> {
        let failed = |action, path: &Path, source| OpenError::Io { action, path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(|error| failed("find", path, error))?;
        create(&path).map_err(|error| failed("create directory", &path, error))?;
        let lock_path = path.join("LOCK");
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| failed("open", &lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { dir: path, pid: holder(&mut lock) });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", &lock_path, source)),
        }
        // For the message above, in another process. That it cannot be written takes nothing from the lock.
        let _ = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        Ok(DataDir { path, lock, is_copy: false })
    }

    /// Locks a directory that is there, and changes nothing in it.
    pub fn look(path: &Path) -> Result<DataDir, OpenError> {
        let failed = |action, path: &Path, source| OpenError::Io { action, path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(|error| failed("find", path, error))?;
        let lock_path = path.join("LOCK");
        let mut lock = match File::open(&lock_path) {
            Ok(lock) => lock,
            // No daemon was ever here: it is a copy.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_dir() => {
                File::open(&path).map_err(|error| failed("open", &path, error))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::NoLog { dir: path });
            }
            Err(error) => return Err(failed("open", &lock_path, error)),
        };
        let is_copy = !lock.metadata().is_ok_and(|file| file.is_file());
        match lock.try_lock() {
            Ok(()) => Ok(DataDir { path, lock, is_copy }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: path, pid: holder(&mut lock) }),
            Err(TryLockError::Error(source)) => Err(failed("lock", &lock_path, source)),
        }
    }

    /// Before something is changed in a directory that was only looked at: locks it as a daemon does, if it is not.
    pub fn keep_daemons_out(&self) -> Result<Option<DataDir>, OpenError> {
        if self.is_copy { DataDir::claim(&self.path).map(Some) } else { Ok(None) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// sled's own directory.
    pub fn sled(&self) -> PathBuf {
        sled(&self.path)
    }

    /// The file in which sled keeps all data.
    pub fn sled_db(&self) -> PathBuf {
        sled_db(&self.path)
    }

    pub fn witness(&self) -> PathBuf {
        self.path.join("witness")
    }

    pub fn ballast(&self) -> PathBuf {
        ballast(&self.path)
    }

    /// Waits for a log of this process that was closed just now. A task in sled's thread pool, or a process that another
    /// thread is just starting, may hold sled's file, and the lock on it, a little longer. Nobody else can have it,
    /// because the directory is ours.
    pub fn wait_until_sled_let_go(&self) -> Result<(), OpenError> {
        let path = self.sled_db();
        let Ok(file) = File::options().read(true).write(true).open(&path) else {
            // There is none yet, or sled will say why it cannot be opened.
            return Ok(());
        };
        for _ in 0..SLED_LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => thread::sleep(SLED_LOCK_PAUSE),
                Err(TryLockError::Error(source)) => {
                    return Err(OpenError::Io { action: "lock", path, source });
                }
            }
        }
        Err(OpenError::InUse { dir: self.path.clone(), pid: None })
    }

    /// Removes what sled had not finished when it was last opened, and would take for damage. Snapshots it makes again, as well
    /// as its configuration, which is always the same; that is written once, before anything is durable.
    pub fn clear_unfinished(&self, anything_durable: bool) -> io::Result<()> {
        if !self.sled().exists() {
            return Ok(());
        }
        for entry in fs::read_dir(self.sled())? {
            let path = entry?.path();
            let unfinished = path.extension().is_some_and(|extension| extension == "generating");
            let first = !anything_durable && path.file_name().is_some_and(|name| name == "conf");
            if unfinished || first {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Sees to it that the ballast file is there, and that its blocks are.
    pub fn keep_ballast(&self, bytes: u64) -> io::Result<Ballast> {
        if bytes == 0 {
            return match fs::remove_file(self.ballast()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(Ballast::Off),
            };
        }
        let kept = fs::metadata(self.ballast()).map_or(0, |file| file.len());
        if kept == bytes {
            return Ok(Ballast::Kept);
        }
        // Whoever deleted it needed the room. It must not take at once what was just freed.
        let free_bytes = free_bytes(&self.path)?;
        if kept < bytes && free_bytes < 2 * bytes {
            return Ok(Ballast::Lacking { free_bytes });
        }
        let file = File::options().write(true).create(true).truncate(false).open(self.ballast())?;
        file.set_len(bytes.min(kept))?;
        allocate(&file, bytes)?;
        file.sync_all()?;
        Ok(Ballast::Kept)
    }

    /// Makes what is in the directory as durable as the files' content: their names and their sizes.
    pub fn sync(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.sled())? {
            let entry = entry?;
            File::open(entry.path())?.sync_all()?;
        }
        File::open(self.sled())?.sync_all()?;
        File::open(&self.path)?.sync_all()
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Closing the file would do, were there not other threads that may be starting processes just now: until such a
        // process runs its program it has the file too, and with it the lock.
        let _ = self.lock.unlock();
    }
}

/// sled's directory within a data directory, for messages too.
pub fn sled(dir: &Path) -> PathBuf {
    dir.join("sled")
}

/// sled's file within a data directory.
pub fn sled_db(dir: &Path) -> PathBuf {
    sled(dir).join("db")
}

/// The ballast file of a data directory, if it is there to be deleted.
pub fn ballast_if_kept(dir: &Path) -> Option<PathBuf> {
    Some(ballast(dir)).filter(|path| path.exists())
}

fn ballast(dir: &Path) -> PathBuf {
    dir.join("ballast")
}

/// The space left to us on the file system of `dir`, in bytes.
///
/// # Errors
/// When `dir` does not exist or its file system does not tell.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Creates a directory and those above it, durably.
fn create(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for dir in missing {
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

/// The process that wrote its id into the lock file, if it is it that has the lock: who only looks does not write.
fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().and_then(|()| lock.take(16).read_to_string(&mut text)).ok()?;
    let pid = text.trim().parse().ok()?;
    let ours = lock.metadata().ok()?;
    let opened = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let has_it = |file: &fs::Metadata| (file.dev(), file.ino()) == (ours.dev(), ours.ino());
    opened.filter_map(|entry| fs::metadata(entry.ok()?.path()).ok()).any(|file| has_it(&file)).then_some(pid)
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) => {
            // Some file systems cannot reserve; writing does it.
            io::copy(&mut io::repeat(0).take(bytes), &mut &*file).map(drop)
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballast_takes_real_space_and_follows_its_setting() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let dir = DataDir::claim(&dir.path().join("a/b")).unwrap();
        for bytes in [1 << 20, 2 << 20, 1 << 16] {
            assert_eq!(dir.keep_ballast(bytes).unwrap(), Ballast::Kept);
            let file = fs::metadata(dir.ballast()).unwrap();
            assert_eq!(file.len(), bytes);
            assert!(file.blocks() * 512 >= bytes, "{} blocks for {bytes} bytes", file.blocks());
        }
        assert_eq!(dir.keep_ballast(0).unwrap(), Ballast::Off);
        assert!(!dir.ballast().exists());
        // More than half of what is free: it would take what an operator has just freed.
        let too_much = free_bytes(dir.path()).unwrap() / 4 * 3;
        assert!(matches!(dir.keep_ballast(too_much).unwrap(), Ballast::Lacking { .. }));
        assert!(!dir.ballast().exists());
    }

    #[test]
    fn directory_is_made_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let dir = DataDir::claim(&dir.path().join("a/b")).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
