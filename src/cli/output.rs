//! What goes to standard output, and in which colours.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value;

use super::table::Table;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Standard output, or a buffer in its place.
pub struct Output {
    pub format: Format,
    pub paint: Paint,
    to: Box<dyn Write>,
}

/// The colours in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Red,
    Green,
    Yellow,
    Cyan,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Coloured,
}

impl Output {
    pub fn stdout(format: Format) -> Output {
        Output { format, paint: Paint::for_stream(&io::stdout()), to: Box::new(io::stdout()) }
    }

    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.to, "{text}")
    }

    /// Text as it is, line ends and all.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.to.write_all(text.as_bytes())?;
        self.to.flush()
    }

    pub fn table(&mut self, table: &Table) -> io::Result<()> {
        self.text(&table.render(self.paint))
    }

    /// One JSON document, over several lines.
    pub fn json(&mut self, value: &Value) -> io::Result<()> {
        self.text(&format!("{value:#}\n"))
    }

    /// One JSON document on a line of its own, for streams of them.
    pub fn json_line(&mut self, value: &Value) -> io::Result<()> {
        self.text(&format!("{value}\n"))
    }
}

impl Paint {
    pub fn for_stderr() -> Paint {
        Paint::for_stream(&io::stderr())
    }

    fn for_stream(stream: &impl IsTerminal) -> Paint {
        let variable = |name| std::env::var_os(name).unwrap_or_default();
        if stream.is_terminal() {
            Paint::for_terminal(&variable("NO_COLOR"), &variable("TERM"))
        } else {
            Paint::Plain
        }
    }

    /// Colours, unless the person has said no (<https://no-color.org>) or the terminal has none.
    fn for_terminal(no_color: &OsStr, term: &OsStr) -> Paint {
        if no_color.is_empty() && term != "dumb" { Paint::Coloured } else { Paint::Plain }
    }

    pub fn is_coloured(self) -> bool {
        self == Paint::Coloured
    }

    pub fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Cyan => 36,
        };
        match self {
            Paint::Plain => text.to_owned(),
            Paint::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// Tells something beside the data, on standard error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// Makes a text of others fit to be shown: a terminal must not obey what a participant put into its reason. Line ends
/// stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n';
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if harmful(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// The same on one line.
pub fn one_line(text: &str) -> String {
    printable(text).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_have_colours_unless_somebody_says_no() {
        let paint = |no_color: &str, term: &str| Paint::for_terminal(no_color.as_ref(), term.as_ref());
        assert_eq!(paint("", "xterm"), Paint::Coloured);
        assert_eq!(paint("1", "xterm"), Paint::Plain);
        assert_eq!(paint("", "dumb"), Paint::Plain);
    }
}
