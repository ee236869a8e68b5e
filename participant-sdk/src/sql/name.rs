//! How a participant's name is put into the names of prepared transactions, which are short.

/// Hexadecimal digits of the hash that stands for the rest of a long name.
const HASH_DIGITS: usize = 16;

/// The name itself if it has at most so many bytes; else its beginning, `#`, and 64 bits of a hash of it all.
///
/// No participant's name has a `#`, so a short name is never taken for a shortened one.
pub(crate) fn shortened(name: &str, bytes_max: usize) -> String {
    if name.len() <= bytes_max {
        return name.to_owned();
    }
    let hash = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).simple().to_string();
    let kept = &name.as_bytes()[..bytes_max - 1 - HASH_DIGITS];
    format!("{}#{}", String::from_utf8_lossy(kept), &hash[..HASH_DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_to_the_limit_and_stay_apart() {
        assert_eq!(shortened("shop/stock", 27), "shop/stock");
        let (one, other) = (format!("{}1", "x".repeat(127)), format!("{}2", "x".repeat(127)));
        assert_eq!(shortened(&one, 27).len(), 27);
        assert!(shortened(&one, 27).starts_with("xxxxxxxxxx#"));
        assert_ne!(shortened(&one, 27), shortened(&other, 27));
    }
}
