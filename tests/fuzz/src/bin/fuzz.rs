//! Tries inputs: those in the files that are named, or, as `tests/fuzz/run` builds it, ever new ones.

#![cfg_attr(fuzzing, no_main)]

use assent_fuzz::Target;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static TARGET: std::sync::LazyLock<Target> = std::sync::LazyLock::new(|| {
        let name = std::env::var("ASSENT_FUZZ_TARGET").unwrap_or_default();
        Target::named(&name).expect("ASSENT_FUZZ_TARGET names a target")
    });
    (TARGET.run)(input);
});

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(target) = args.next().and_then(|name| Target::named(&name)) else {
        let names = assent_fuzz::TARGETS.map(|target| target.name).join("|");
        return Err(std::io::Error::other(format!("usage: fuzz {names} FILE...")));
    };
    args.try_for_each(|file| std::fs::read(file).map(|input| (target.run)(&input)))
}
