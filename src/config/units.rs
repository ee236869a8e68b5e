//! Values that people write with a unit, and other texts with a meaning.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::{Serialize, Serializer};
use tracing_subscriber::EnvFilter;

/// A length of time, written `250ms`, `30s`, `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes, written `64 KiB`, `1 MiB`, `1500 B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Directives that select what is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

const UNITS_NS: [(u128, &str); 7] = [
    (86_400_000_000_000, "d"),
    (3_600_000_000_000, "h"),
    (60_000_000_000, "m"),
    (1_000_000_000, "s"),
    (1_000_000, "ms"),
    (1_000, "us"),
    (1, "ns"),
];

impl Span {
    pub const ZERO: Span = Span(Duration::ZERO);

    pub const fn from_millis(ms: u64) -> Span {
        Span(Duration::from_millis(ms))
    }

    pub const fn from_secs(s: u64) -> Span {
        Span(Duration::from_secs(s))
    }
}

impl Size {
    pub const fn from_kib(kib: u64) -> Size {
        Size(kib << 10)
    }

    pub const fn from_mib(mib: u64) -> Size {
        Size(mib << 20)
    }
}

impl LogFilter {
    pub fn to_env_filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        span.0
    }
}

/// A type that the configuration writes as text.
pub(super) trait Text: FromStr<Err: fmt::Display> {
    /// What it is, with an example.
    const EXPECTED: &'static str;
}

impl Text for Span {
    const EXPECTED: &'static str = "a duration with its unit, such as 250ms or 30s";
}

impl Text for Size {
    const EXPECTED: &'static str = "a size, such as 64 KiB or 1 MiB";
}

impl Text for LogFilter {
    const EXPECTED: &'static str = "a level or directives, such as info or \"info,assent::store=debug\"";
}

impl Text for SocketAddr {
    const EXPECTED: &'static str = "an IP address and a port, such as 127.0.0.1:7420 or [::]:7420";
}

/// It is not what [`Text::EXPECTED`] says.
#[derive(Debug)]
pub struct NotA(&'static str);

impl fmt::Display for NotA {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it must be {}", self.0)
    }
}

impl std::error::Error for NotA {}

impl FromStr for Span {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Span, NotA> {
        // A bare 0 is the one number that humantime takes without a unit; we do not.
        if text.trim() == "0" {
            return Err(NotA(Self::EXPECTED));
        }
        humantime::parse_duration(text.trim()).map(Span).map_err(|_| NotA(Self::EXPECTED))
    }
}

impl FromStr for Size {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Size, NotA> {
        text.trim().parse::<ByteSize>().map(|size| Size(size.as_u64())).map_err(|_| NotA(Self::EXPECTED))
    }
}

impl FromStr for LogFilter {
    type Err = NotA;

    fn from_str(text: &str) -> Result<LogFilter, NotA> {
        // An empty filter would silence everything, errors too.
        if text.trim().is_empty() || EnvFilter::try_new(text).is_err() {
            return Err(NotA(Self::EXPECTED));
        }
        Ok(LogFilter(text.to_owned()))
    }
}

impl fmt::Display for Span {
    /// Exact, and without humantime's months and years, which are no whole number of days.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest_ns = self.0.as_nanos();
        let mut parts = Vec::new();
        for (unit_ns, unit) in UNITS_NS {
            if rest_ns >= unit_ns {
                parts.push(format!("{}{unit}", rest_ns / unit_ns));
                rest_ns %= unit_ns;
            }
        }
        f.write_str(if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }.as_str())
    }
}

impl fmt::Display for Size {
    /// Exact: in the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shift, unit) = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift)
            .unwrap_or((0, "B"));
        write!(f, "{} {unit}", self.0 >> shift)
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                from_text(deserializer)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
pub(super) use serde_as_text;

serde_as_text!(Span, Size, LogFilter);

pub(super) fn socket_addr<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let wrong = || D::Error::custom(NotA(SocketAddr::EXPECTED));
    from_text(deserializer).map_err(|_: D::Error| wrong())
}

/// Reads a text, and says what was expected where there is something else.
pub(super) fn from_text<'de, T: Text, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct TextVisitor<T>(PhantomData<T>);

    impl<T: Text> Visitor<'_> for TextVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}, in quotes", T::EXPECTED)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(TextVisitor(PhantomData))
}
