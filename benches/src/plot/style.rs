//! How the lines of a plot look, and the legend that says so.

use plotters::{
    coord::Shift,
    element::DashedPathElement,
    prelude::{BLACK, Circle, Color, DrawingArea, IntoFont, RGBColor, SVGBackend},
    style::{
        ShapeStyle, TextStyle,
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

/// Radius of the marks of points, and whether they are filled.
const MARKS: [(i32, bool); 3] = [(3, true), (5, false), (6, true)];

/// How a line looks: the next colour for each, then other dashes, then other marks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Style {
    color: RGBColor,
    dashes: (i32, i32),
    mark: (i32, bool),
}

impl Style {
    /// Of a line by its number.
    pub fn of(line: usize) -> Self {
        let dashed = line / COLORS.len();
        Self {
            color: COLORS[line % COLORS.len()],
            dashes: DASHES[dashed % DASHES.len()],
            mark: MARKS[dashed / DASHES.len() % MARKS.len()],
        }
    }

    /// The line through some points.
    pub fn line<I: Iterator + Clone>(&self, points: I) -> DashedPathElement<I, i32> {
        let (dash, gap) = self.dashes;
        DashedPathElement::new(points, dash, gap, self.color.stroke_width(2))
    }

    /// The mark of a point.
    pub fn mark<C>(&self, point: C) -> Circle<C, i32> {
        let (radius, filled) = self.mark;
        let style = ShapeStyle {
            filled,
            ..self.color.stroke_width(1)
        };
        Circle::new(point, radius, style)
    }
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

    /// Draws how each line looks beside its label.
    pub fn draw(&self, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
        let text = text().pos(Pos::new(HPos::Left, VPos::Center));
        for (line, label) in self.labels.iter().enumerate() {
            let style = Style::of(line);
            let x = MARGIN + (line / self.rows) as i32 * self.column;
            let y = (line % self.rows) as i32 * ROW + ROW / 2;
            let swatch = [(x, y), (x + SWATCH, y)];
            area.draw(&style.line(swatch.into_iter()))?;
            area.draw(&style.mark((x + SWATCH / 2, y)))?;
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
    fn lines_of_one_colour_differ_in_their_dashes_or_marks() {
        let n = COLORS.len() * DASHES.len() * MARKS.len();
        let differ = |line| (0..line).all(|other| Style::of(other) != Style::of(line));
        assert!((0..n).all(differ));
    }

    #[test]
    fn labels_take_the_columns_that_there_is_room_for() {
        let labels = |length: usize| vec!["x".repeat(length); 5];
        assert_eq!(Legend::new(labels(5), 900).rows, 1);
        assert_eq!(Legend::new(labels(40), 900).rows, 3);
        assert_eq!(Legend::new(labels(400), 900).rows, 5);
    }
}
