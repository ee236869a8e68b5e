//! Power cuts: the coordinator's disk loses what was written and not synced, and nobody may find that it was told too much.
//! `ASSENT_TEST_CUTS=100` makes it last.

use std::fs::{self, File};
use std::time::Duration;

use super::disk::Disk;
use super::stage::Stage;
use super::{HASTE, Random, report, seed};
use crate::coordinator::{Coordinator, assent};

const CUTS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn no_power_cut_takes_back_a_word_on_ext4() {
    cut_and_cut_again("ext4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_power_cut_takes_back_a_word_on_xfs() {
    cut_and_cut_again("xfs").await;
}

/// Cuts the power under load. Every second time the witness file is, besides, as old as a cut can make it.
async fn cut_and_cut_again(file_system: &str) {
    // Goes last, when nobody is on it any more.
    let Some(mut disk) = Disk::new(file_system) else { return };
    let cuts = std::env::var("ASSENT_TEST_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let data_dir = disk.path().join("data");
    let witness = data_dir.join("witness");
    let small = ["--set", "storage.min_free=1 MiB", "--set", "storage.ballast=1 MiB"];
    let mut stage = Stage::open(Coordinator::start_on(data_dir, &[HASTE, small].concat())).await;
    let seed = seed();
    let mut random = Random(seed);
    for cut in 1..=cuts {
        // Nothing was decided in this life, so this is what its start has synced.
        let oldest = fs::read(&witness).unwrap();
        let load = stage.load(12);
        stage.until_begun(24 + random.below(24)).await;
        // Not a wait for anything: this is the random instant.
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
        stage.fault("power cut", None);
        disk.cut_power();
        stage.coordinator.kill9();
        disk.mount_again();
        if cut % 2 == 0 {
            fs::write(&witness, oldest).unwrap();
            File::open(&witness).unwrap().sync_all().unwrap();
        }
        stage.coordinator.relaunch();
        load.stop().await;
        stage.settle().await;
        stage.judge(&format!("after power cut {cut} of {cuts} on {file_system} (seed {seed})"));
        // A new life, whose witness is known.
        stage.coordinator.kill9();
        stage.coordinator.restart();
    }
    let total = stage.total();
    report(&format!("{cuts} power cuts on {file_system}: {total}"));
    assert!(total.committed > 10 * cuts && total.aborted > cuts, "{total}");
    without_a_witness(&mut stage);
}

/// A log whose witness is gone altogether could lack anything: it is refused, and says so.
fn without_a_witness(stage: &mut Stage) {
    stage.coordinator.kill9();
    let data_dir = stage.coordinator.data_dir();
    let (witness, aside) = (data_dir.join("witness"), data_dir.join("aside"));
    fs::rename(&witness, &aside).unwrap();
    let refused = assent().args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data_dir).output();
    let refused = refused.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("witness"), "{}: {said}", refused.status);
    fs::rename(&aside, &witness).unwrap();
    stage.coordinator.restart();
    assert!(stage.coordinator.terminate().success());
}
