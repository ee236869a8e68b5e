//! Values that are mostly right, and sometimes hostile.

use arbitrary::{Result, Unstructured};

/// Texts that no name may be, or just may.
const HOSTILE: [&str; 12] = [
    "",
    " ",
    "größe",
    "a\0b",
    "a\nb",
    "\u{202e}kcots",
    "../../etc/passwd'",
    "order-10",
    "ORDER-1",
    "%s%n",
    "shop/",
    "-",
];

/// One of `usual`, or nearly, or nothing like it.
pub fn text(u: &mut Unstructured<'_>, usual: &[&str]) -> Result<String> {
    Ok(match u.int_in_range(0..=15)? {
        0 => (*u.choose(&HOSTILE)?).to_owned(),
        1 => "x".repeat(usize::from(u.arbitrary::<u16>()?)),
        2 => "ä".repeat(usize::from(u.arbitrary::<u8>()?)),
        3 => {
            let length = u.int_in_range(0..=12)?;
            String::from_utf8_lossy(u.bytes(length)?).into_owned()
        }
        _ => (*u.choose(usual)?).to_owned(),
    })
}

/// A number of an enum that has `count` of them, 0 included; or none of them.
pub fn variant(u: &mut Unstructured<'_>, count: i32) -> Result<i32> {
    if u.ratio(1, 16)? { u.arbitrary() } else { u.int_in_range(0..=count - 1) }
}

/// Milliseconds: none, few, many, too many.
pub fn millis(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=7)? {
        0 => u.arbitrary()?,
        1 => u64::MAX,
        2 => 60_000,
        3 => 60_001,
        4 => 1,
        5 => u64::from(u.arbitrary::<u16>()?),
        _ => 0,
    })
}
