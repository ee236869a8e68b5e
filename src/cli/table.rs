//! Aligned columns.

use super::output::{Colour, Paint, one_line};

const GAP: &str = "  ";

/// Rows under a header. Columns in which nothing stands are left out.
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// One text in a table, on one line.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Table {
    pub fn new<const N: usize>(header: [&'static str; N]) -> Table {
        Table { header: header.to_vec(), rows: Vec::new() }
    }

    /// A list of names and what they stand for.
    pub fn of_facts() -> Table {
        Table::new(["", ""])
    }

    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.header.len(), "a cell for each column");
        self.rows.push(cells.into());
    }

    /// Adds a fact, unless it is empty.
    pub fn fact(&mut self, name: &'static str, value: impl Into<Cell>) {
        let value = value.into();
        if !value.text.is_empty() {
            self.row([name.into(), value]);
        }
    }

    pub fn render(&self, paint: Paint) -> String {
        let columns: Vec<usize> = (0..self.header.len()).filter(|&column| self.width(column) > 0).collect();
        let header: Vec<Cell> = self.header.iter().map(|name| Cell::from(*name)).collect();
        let has_header = self.header.iter().any(|name| !name.is_empty());
        let mut text = String::new();
        for row in has_header.then_some(&header).into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (place, &column) in columns.iter().enumerate() {
                let cell = &row[column];
                let padding = self.full_width(column) - cell.width();
                line.push_str(if place == 0 { "" } else { GAP });
                line.push_str(
                    &cell.colour.map_or(cell.text.clone(), |colour| paint.paint(colour, &cell.text)),
                );
                line.extend(std::iter::repeat_n(' ', padding));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The width of what stands under the header; with no rows at all, of the header.
    fn width(&self, column: usize) -> usize {
        if self.rows.is_empty() {
            return self.header[column].len();
        }
        self.rows.iter().map(|row| row[column].width()).max().unwrap_or(0)
    }

    fn full_width(&self, column: usize) -> usize {
        self.width(column).max(self.header[column].len())
    }
}

impl Cell {
    #[must_use]
    pub fn coloured(self, colour: Option<Colour>) -> Cell {
        Cell { colour, ..self }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: one_line(text.as_ref()), colour: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let mut table = Table::new(["ID", "EMPTY", "NAME", "LAST"]);
        table.row(["1".into(), "".into(), "größer".into(), "x".into()]);
        table.row(["1000".into(), "".into(), "a".into(), "".into()]);
        assert_eq!(table.render(Paint::Plain), "ID    NAME    LAST\n1     größer  x\n1000  a\n");
    }

    #[test]
    fn colours_do_not_move_columns_and_are_absent_when_plain() {
        let mut table = Table::new(["STATE", "X"]);
        table.row([Cell::from("ok").coloured(Some(Colour::Green)), "1".into()]);
        assert_eq!(table.render(Paint::Plain), "STATE  X\nok     1\n");
        assert_eq!(table.render(Paint::Coloured), "STATE  X\n\x1b[32mok\x1b[0m     1\n");
    }

    #[test]
    fn escape_sequences_of_others_are_shown_and_not_obeyed() {
        let mut table = Table::new(["REASON"]);
        table.row(["\x1b[2Jgone\nnext".into()]);
        assert_eq!(table.render(Paint::Plain), "REASON\n\\u{1b}[2Jgone next\n");
    }
}
