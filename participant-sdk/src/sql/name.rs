//! Names as they are put into SQL text, and into the names of prepared transactions, which are short.

use crate::branch::ClusterId;
use crate::error::{Result, refuse};

/// As long as the column is wide.
const CLUSTER_BYTES_MAX: usize = 64;

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
    // The name of a database may have any letters.
    let kept = &name[..name.floor_char_boundary(bytes_max - 1 - HASH_DIGITS)];
    format!("{kept}#{}", &hash[..HASH_DIGITS])
}

/// The cluster's id as text that may stand between quotes. All other names were parsed, but this one comes as it was sent.
pub(crate) fn quotable(cluster: &ClusterId) -> Result<&str> {
    let text = cluster.as_str();
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if text.len() <= CLUSTER_BYTES_MAX && text.bytes().all(good) {
        return Ok(text);
    }
    let shown: String = text.chars().take(CLUSTER_BYTES_MAX).collect();
    Err(refuse(format!(
        "{shown:?} is not a cluster id: at most {CLUSTER_BYTES_MAX} bytes of letters, digits and -_.:/"
    )))
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
        assert!(shortened(&"ö".repeat(20), 27).starts_with("ööööö#"));
    }

    #[test]
    fn only_what_may_stand_between_quotes_is_a_cluster_id() {
        for good in ["", "cluster-1", "0198c1de-0000-7000-8000-000000000000"] {
            assert_eq!(quotable(&ClusterId::from(good)).unwrap(), good);
        }
        for bad in ["it's", "a\\", "a\0", "größe", "x".repeat(65).as_str()] {
            let failure = quotable(&ClusterId::from(bad)).unwrap_err();
            assert!(failure.refusal().is_some_and(|reason| reason.contains("at most 64 bytes")), "{failure}");
        }
    }
}
