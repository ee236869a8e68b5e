//! The witness file: what the log must at least hold, kept outside the database.
//!
//! A database that lost its end, or was swapped for an old copy, may look whole to itself. The witness tells. It has two
//! slots, written in turn, so that one torn write leaves the other.
//!
//! A group of writes is announced before it is written and confirmed after its sync. Neither is synced itself: that
//! would double the cost of a commit. So after a kill of the process the witness knows exactly what was acknowledged;
//! after a power loss it knows a lower bound, at most [`FORCED_GROUPS_PER_SYNC`] forced groups old. It never claims more
//! than was durable, since a claim is written after the sync that makes it true.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use uuid::Uuid;

use super::group::{u32_at, u64_at};
use super::medium::WitnessFile;
use crate::core::Epoch;
use crate::store::{OpenError, Refusal};

/// How many forced groups may pass until the witness itself is synced.
const FORCED_GROUPS_PER_SYNC: u32 = 1024;

/// What the slots look like. A change that an older program would misread takes the next.
const FORMAT_VERSION: u32 = 2;

/// The file, open for writing.
#[derive(Debug)]
pub struct Witness<F> {
    file: F,
    /// Of the last write. Its lowest bit says which slot that was.
    revision: u64,
    claim: Claim,
    unsynced_forced_groups: u32,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub cluster: Uuid,
    /// The life in which the log was last durable. Epoch 0: none yet.
    pub life: (Epoch, u32),
    /// The last group that was announced.
    pub begun: u64,
    /// The last group that was durable.
    pub durable: u64,
    /// The checksum of that group.
    pub sum: u32,
}

impl Witness<File> {
    /// Reads the file at `path`; `None` where there is none.
    pub fn find(path: &Path) -> Result<Option<Witness<File>>, OpenError> {
        match File::options().read(true).write(true).open(path) {
            Ok(file) => Witness::read(file, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenError::Io { action: "read", path: path.to_owned(), source }),
        }
    }

    /// Makes the file for a log that is still to be made. It appears whole or not at all.
    pub fn make(path: &Path) -> io::Result<Witness<File>> {
        Witness::make_for(path, Uuid::new_v4())
    }

    /// The same for a log of a cluster that there was before.
    pub fn make_for(path: &Path, cluster: Uuid) -> io::Result<Witness<File>> {
        let new = path.with_extension("new");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&new)?;
        let witness = Witness::create_for(file, cluster)?;
        fs::rename(&new, path)?;
        Ok(witness)
    }
}

impl<F: WitnessFile> Witness<F> {
    /// Reads a file that is there. `path` is for messages.
    pub fn read(file: F, path: &Path) -> Result<Witness<F>, OpenError> {
        let mut slots = Vec::new();
        for at in [0, 1] {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, at * SLOT_STRIDE) {
                Err(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
                    return Err(OpenError::Io { action: "read", path: path.to_owned(), source });
                }
                Ok(()) | Err(_) => slots.push(Slot::decode(&bytes)),
            }
        }
        let (mut newest, mut other_version) = (None::<(u64, Claim)>, None);
        for slot in slots {
            match slot {
                // It may be damage of just this number: then the other slot is sound.
                Slot::OtherVersion { found } => other_version = Some(found),
                Slot::Broken => tracing::warn!(
                    path = %path.display(),
                    "one of the two copies in the witness file is damaged; going by the other"
                ),
                Slot::Valid { revision, claim } => {
                    if newest.is_none_or(|(other, _)| other < revision) {
                        newest = Some((revision, claim));
                    }
                }
            }
        }
        let (revision, claim) = newest.ok_or_else(|| match other_version {
            Some(found) => {
                OpenError::OtherVersion { path: path.to_owned(), found, supported: FORMAT_VERSION }
            }
            None => OpenError::Refused {
                dir: path.parent().unwrap_or(path).to_owned(),
                why: Refusal::WitnessDamaged,
            },
        })?;
        Ok(Witness { file, revision, claim, unsynced_forced_groups: 0 })
    }

    /// Fills an empty file, for a log that is still to be made.
    pub fn create(file: F) -> io::Result<Witness<F>> {
        Witness::create_for(file, Uuid::new_v4())
    }

    fn create_for(file: F, cluster: Uuid) -> io::Result<Witness<F>> {
        let claim = Claim { cluster, life: (Epoch(0), 0), begun: 0, durable: 0, sum: 0 };
        let mut witness = Witness { file, revision: 0, claim, unsynced_forced_groups: 0 };
        witness.write()?;
        witness.write()?;
        witness.sync()?;
        Ok(witness)
    }

    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Before a group is written.
    pub fn announce(&mut self, group: u64) -> io::Result<()> {
        self.claim.begun = group;
        self.write()
    }

    /// After everything up to a group was synced.
    pub fn confirm(&mut self, life: (Epoch, u32), group: u64, sum: u32) -> io::Result<()> {
        self.claim = Claim { life, durable: group, sum, ..self.claim };
        self.write()?;
        self.unsynced_forced_groups += 1;
        if self.unsynced_forced_groups >= FORCED_GROUPS_PER_SYNC {
            self.sync()?;
        }
        Ok(())
    }

    pub fn sync(&mut self) -> io::Result<()> {
        self.unsynced_forced_groups = 0;
        self.file.sync_data()
    }

    fn write(&mut self) -> io::Result<()> {
        // Nobody has written so many; but after the last one the next would be taken for the oldest.
        let next = self.revision.checked_add(1);
        self.revision = next.ok_or_else(|| io::Error::other("the witness has no revisions left"))?;
        self.file.write_all_at(&encode(self.revision, &self.claim), (self.revision & 1) * SLOT_STRIDE)
    }
}

/// Apart by more than any disk's sector.
const SLOT_STRIDE: u64 = 4096;
const SLOT_BYTES: usize = 8 + 4 + 8 + 16 + 4 + 4 + 8 + 8 + 4 + 4;
const MAGIC: &[u8; 8] = b"assentwt";

enum Slot {
    Valid { revision: u64, claim: Claim },
    OtherVersion { found: u32 },
    Broken,
}

fn encode(revision: u64, claim: &Claim) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLOT_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&revision.to_le_bytes());
    bytes.extend_from_slice(claim.cluster.as_bytes());
    bytes.extend_from_slice(&claim.life.0.0.to_le_bytes());
    bytes.extend_from_slice(&claim.life.1.to_le_bytes());
    bytes.extend_from_slice(&claim.begun.to_le_bytes());
    bytes.extend_from_slice(&claim.durable.to_le_bytes());
    bytes.extend_from_slice(&claim.sum.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

impl Slot {
    fn decode(bytes: &[u8; SLOT_BYTES]) -> Slot {
        if !bytes.starts_with(MAGIC) {
            return Slot::Broken;
        }
        // The version comes first: another one may do all the rest differently.
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            return Slot::OtherVersion { found: version };
        }
        let (content, crc) = bytes.split_at(SLOT_BYTES - 4);
        if crc32c::crc32c(content) != u32_at(crc, 0) {
            return Slot::Broken;
        }
        let claim = Claim {
            cluster: Uuid::from_slice(&bytes[20..36]).expect("sixteen bytes"),
            life: (Epoch(u32_at(bytes, 36)), u32_at(bytes, 40)),
            begun: u64_at(bytes, 44),
            durable: u64_at(bytes, 52),
            sum: u32_at(bytes, 60),
        };
        Slot::Valid { revision: u64_at(bytes, 12), claim }
    }
}
