//! Files of the store that it keeps to itself, as they are.

#[path = "../../../src/store/sled_log/group.rs"]
pub mod group;
#[path = "../../../src/store/sled_log/witness.rs"]
pub mod witness;

/// What the witness needs of a disk.
mod medium {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;

    pub trait WitnessFile {
        fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
        fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
        fn sync_data(&self) -> io::Result<()>;
    }

    impl WitnessFile for File {
        fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
            FileExt::read_exact_at(self, bytes, at)
        }

        fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
            FileExt::write_all_at(self, bytes, at)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.sync_data()
        }
    }
}
