//! How the lines of a plot look, and the legend that says so.

use plotters::{
    coord::Shift,
    element::DashedPathElement,
    prelude::{BLACK, Circle, Color, DrawingArea, IntoFont, RGBColor, SVGBackend},
    style::{
        TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

/// Part of a plot, in pixels.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Colours that people with any colour vision tell apart (Okabe and Ito), without those that are
/// hard to see on white.
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(0, 0, 0),
    RGBColor(204, 121, 167),
    RGBColor(120, 120, 120),
];
/// Pixels of a dash and of the gap behind it; the first is longer than any line.
const DASHES: [(i32, i32); 3] = [(1 << 20, 1), (8, 4), (2, 3)];

const ROW: i32 = 20;
const SWATCH: i32 = 32;
const MARGIN: i32 = 16;
/// Of a character at most.
const CHARACTER: i32 = 7;

/// A line's colour and dashes; those that share a colour differ in their dashes.
pub fn of(line: usize) -> (RGBColor, (i32, i32)) {
    let dashes = DASHES[line / COLORS.len() % DASHES.len()];
    (COLORS[line % COLORS.len()], dashes)
}

/// What is written in.
pub fn text() -> TextStyle<'static> {
    ("sans-serif", 16).into_font().color(&BLACK)
}

/// The legend of some lines, in as many columns as there is room for.
pub struct Legend {
    labels: Vec<String>,
    column: i32,
    rows: usize,
}

impl Legend {
    /// Lays the labels out for a width.
    pub fn new(labels: Vec<String>, width: i32) -> Self {
        let longest = labels.iter().map(|label| label.chars().count()).max();
        let column = longest.unwrap_or(0) as i32 * CHARACTER + SWATCH + 2 * MARGIN;
        let columns = ((width - MARGIN) / column).max(1) as usize;
        let rows = labels.len().div_ceil(columns);
        Self {
            labels,
            column,
            rows,
        }
    }

    /// Pixels that it takes.
    pub fn height(&self) -> u32 {
        self.rows as u32 * ROW as u32 + MARGIN as u32
    }

    /// Draws each line's colour and dashes beside its label.
    pub fn draw(&self, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
        let text = text().pos(Pos::new(HPos::Left, VPos::Center));
        for (line, label) in self.labels.iter().enumerate() {
            let (color, (dash, gap)) = of(line);
            let x = MARGIN + (line / self.rows) as i32 * self.column;
            let y = (line % self.rows) as i32 * ROW + ROW / 2;
            let swatch = [(x, y), (x + SWATCH, y)];
            let stroke = color.stroke_width(2);
            area.draw(&DashedPathElement::new(swatch, dash, gap, stroke))?;
            area.draw(&Circle::new((x + SWATCH / 2, y), 3, color.filled()))?;
            area.draw_text(label, &text, (x + SWATCH + MARGIN / 2, y))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_seen_on_white() {
        let linear = |channel: u8| (f64::from(channel) / 255.0).powf(2.2);
        for RGBColor(r, g, b) in COLORS {
            let luminance = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
            assert!(1.05 / (luminance + 0.05) >= 3.0, "{r} {g} {b}");
        }
    }

    #[test]
    fn lines_of_one_colour_differ_in_their_dashes() {
        let n = COLORS.len() * DASHES.len();
        let differ = (0..n).all(|line| (0..line).all(|other| of(other) != of(line)));
        assert!(differ);
    }

    #[test]
    fn labels_take_the_columns_that_there_is_room_for() {
        let labels = |length: usize| vec!["x".repeat(length); 5];
        assert_eq!(Legend::new(labels(5), 900).rows, 1);
        assert_eq!(Legend::new(labels(40), 900).rows, 3);
        assert_eq!(Legend::new(labels(400), 900).rows, 5);
    }
}
