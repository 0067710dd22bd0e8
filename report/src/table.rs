//! Results as a table of text.

use std::fmt;

/// Columns of text under headings; numbers line up on the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self {
            headings: headings.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    ///
    /// # Panics
    ///
    /// When it has not as many cells as there are headings.
    pub fn push<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells = cells.into_iter().map(Into::into).collect::<Vec<_>>();
        assert_eq!(cells.len(), self.headings.len(), "cells of a row");
        self.rows.push(cells);
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| &row[column]);
        let widths = cells.chain([&self.headings[column]]);
        widths.map(|cell| cell.chars().count()).max().unwrap_or(0)
    }

    /// Whether every cell that is there begins like a number.
    fn is_numeric(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().map(|row| row[column].as_str());
        cells.all(|cell| cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
    }
}

impl fmt::Display for Table {
    /// Lines without one at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = (0..self.headings.len())
            .map(|column| (self.width(column), self.is_numeric(column)))
            .collect::<Vec<_>>();
        for (index, row) in [&self.headings].into_iter().chain(&self.rows).enumerate() {
            let cells = row.iter().zip(&columns).map(|(cell, &(width, right))| {
                if right {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_line_up_on_the_right_and_text_on_the_left() {
        let mut table = Table::new(["policy", "budget", "right"]);
        table.push(["dense", "-", "100.0 %"]);
        table.push(["streaming", "1024", "5.0 %"]);
        assert_eq!(
            table.to_string(),
            "policy     budget    right\n\
             dense           -  100.0 %\n\
             streaming    1024    5.0 %"
        );
    }

    #[test]
    #[should_panic(expected = "cells of a row")]
    fn rows_must_have_a_cell_for_each_heading() {
        Table::new(["a", "b"]).push(["1"]);
    }
}
