//! How charts look: one palette, texts, legends.

use plotters::{
    coord::Shift,
    element::DashedPathElement,
    prelude::{Circle, DrawingArea, PathElement, RGBColor, Rectangle, SVGBackend},
    style::{
        Color, IntoFont, ShapeStyle, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::PlotError;

/// Part of a figure, in pixels.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(super) const TEXT: RGBColor = RGBColor(30, 30, 30);
pub(super) const GRID: RGBColor = RGBColor(225, 225, 225);
pub(super) const MISSING: RGBColor = RGBColor(235, 235, 235);

pub(super) const TITLE_SIZE: i32 = 17;
pub(super) const TEXT_SIZE: i32 = 13;
pub(super) const LINE_HEIGHT: i32 = 20;

/// Colours that people with any colour vision tell apart (Okabe and Ito, with grey for their yellow).
/// Lines take the first [`LINE_COLORS`]: the others are hard to see on white unless they fill an area.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(120, 120, 120),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const LINE_COLORS: usize = 6;
/// Pixels of a dash and of the gap behind it; the first is longer than any line.
const DASHES: [(i32, i32); 3] = [(1 << 20, 1), (8, 4), (2, 3)];
/// Radius of the marks of points, and whether they are filled.
const MARKS: [(i32, bool); 3] = [(3, true), (5, false), (6, true)];

/// The colour of an area that stands for a series.
pub(super) fn series_color(index: usize) -> RGBColor {
    PALETTE[index % PALETTE.len()]
}

/// How a line looks: the next colour for each, then other dashes, then other marks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LineStyle {
    color: RGBColor,
    dashes: (i32, i32),
    mark: (i32, bool),
}

impl LineStyle {
    /// Of a line by its number.
    pub(super) fn of(line: usize) -> Self {
        let dashed = line / LINE_COLORS;
        Self {
            color: PALETTE[line % LINE_COLORS],
            dashes: DASHES[dashed % DASHES.len()],
            mark: MARKS[dashed / DASHES.len() % MARKS.len()],
        }
    }

    /// The line through some points.
    pub(super) fn line<I: Iterator + Clone>(&self, points: I) -> DashedPathElement<I, i32> {
        let (dash, gap) = self.dashes;
        DashedPathElement::new(points, dash, gap, self.color.stroke_width(2))
    }

    /// The mark of a point.
    pub(super) fn mark<C>(&self, point: C) -> Circle<C, i32> {
        let (radius, filled) = self.mark;
        let style = ShapeStyle {
            filled,
            ..self.color.stroke_width(1)
        };
        Circle::new(point, radius, style)
    }
}

/// What a legend shows next to a name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Swatch {
    /// An area.
    Area(RGBColor),
    /// A line, and whether its points are marked.
    Line(LineStyle, bool),
}

/// Stops of a scale from dark to light whose steps look equal (viridis).
const SHADES: [[f64; 3]; 5] = [
    [68.0, 1.0, 84.0],
    [59.0, 82.0, 139.0],
    [33.0, 145.0, 140.0],
    [94.0, 201.0, 98.0],
    [253.0, 231.0, 37.0],
];

/// The colour of a share from 0 to 1.
pub(super) fn shade(share: f64) -> RGBColor {
    let position = share.clamp(0.0, 1.0) * (SHADES.len() - 1) as f64;
    let stop = (position as usize).min(SHADES.len() - 2);
    let between = position - stop as f64;
    let channel = |i: usize| {
        let value = SHADES[stop][i] + between * (SHADES[stop + 1][i] - SHADES[stop][i]);
        value.round() as u8
    };
    RGBColor(channel(0), channel(1), channel(2))
}

/// Black or white, whichever can be read on a colour.
pub(super) fn on(RGBColor(r, g, b): RGBColor) -> RGBColor {
    let luminance = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    match luminance > 140.0 {
        true => RGBColor(0, 0, 0),
        false => RGBColor(255, 255, 255),
    }
}

pub(super) fn text(
    size: i32,
    color: RGBColor,
    horizontal: HPos,
    vertical: VPos,
) -> TextStyle<'static> {
    TextStyle {
        font: ("sans-serif", size).into_font(),
        color: color.to_backend_color(),
        pos: Pos::new(horizontal, vertical),
    }
}

/// Pixels that a text will take at most.
pub(super) fn text_width(text: &str, size: i32) -> i32 {
    (text.chars().count() as f64 * f64::from(size) * 0.6).ceil() as i32
}

/// Writes a title at the top, and gives what is left.
pub(super) fn titled<'a>(area: &Area<'a>, title: &str) -> Result<Area<'a>, PlotError> {
    if title.is_empty() {
        return Ok(area.clone());
    }
    let (width, _) = area.dim_in_pixel();
    let style = text(TITLE_SIZE, TEXT, HPos::Center, VPos::Center);
    area.draw_text(title, &style, (width as i32 / 2, LINE_HEIGHT / 2 + 4))?;
    Ok(area.split_vertically(LINE_HEIGHT + 8).1)
}

/// Where the entries of a legend stand.
struct Legend {
    /// Left end and middle of each entry.
    places: Vec<(i32, i32)>,
    height: i32,
}

impl Legend {
    const SWATCH: i32 = 26;
    const GAP: i32 = 16;

    /// Entries in rows from the left, as many in a row as the width has room for.
    fn new<'a>(names: impl IntoIterator<Item = &'a str>, width: i32) -> Self {
        let (mut x, mut y) = (Self::GAP, LINE_HEIGHT / 2);
        let mut places = Vec::new();
        for name in names {
            let entry = Self::SWATCH + 6 + text_width(name, TEXT_SIZE);
            if x > Self::GAP && x + entry > width {
                (x, y) = (Self::GAP, y + LINE_HEIGHT);
            }
            places.push((x, y));
            x += entry + Self::GAP;
        }
        Self {
            places,
            height: y + LINE_HEIGHT / 2 + 2,
        }
    }
}

/// Pixels that the legend of some names takes from the height of an area.
pub(super) fn legend_height<'a>(names: impl IntoIterator<Item = &'a str>, width: u32) -> u32 {
    Legend::new(names, width as i32).height as u32
}

/// Writes how each series looks at the top, and gives what is left.
pub(super) fn legend<'a>(
    area: &Area<'a>,
    entries: &[(&str, Swatch)],
) -> Result<Area<'a>, PlotError> {
    let (width, _) = area.dim_in_pixel();
    let legend = Legend::new(entries.iter().map(|(name, _)| *name), width as i32);
    let style = text(TEXT_SIZE, TEXT, HPos::Left, VPos::Center);
    for (&(name, swatch), &(x, y)) in entries.iter().zip(&legend.places) {
        let end = x + Legend::SWATCH;
        match swatch {
            Swatch::Area(color) => {
                area.draw(&Rectangle::new([(x, y - 3), (end, y + 3)], color.filled()))?;
            }
            Swatch::Line(line, is_marked) => {
                area.draw(&line.line([(x, y), (end, y)].into_iter()))?;
                if is_marked {
                    area.draw(&line.mark(((x + end) / 2, y)))?;
                }
            }
        }
        area.draw_text(name, &style, (end + 6, y))?;
    }
    Ok(area.split_vertically(legend.height).1)
}

/// Draws a line between pixels.
pub(super) fn rule(area: &Area, from: (i32, i32), to: (i32, i32)) -> Result<(), PlotError> {
    Ok(area.draw(&PathElement::new([from, to], TEXT))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_run_from_dark_to_light_and_do_not_leave_their_ends() {
        assert_eq!(shade(0.0), RGBColor(68, 1, 84));
        assert_eq!(shade(1.0), RGBColor(253, 231, 37));
        assert_eq!(shade(0.5), RGBColor(33, 145, 140));
        assert_eq!((shade(-3.0), shade(7.0)), (shade(0.0), shade(1.0)));
        assert_eq!(on(shade(0.0)), RGBColor(255, 255, 255));
        assert_eq!(on(shade(1.0)), RGBColor(0, 0, 0));
    }

    #[test]
    fn the_colours_of_lines_are_seen_on_white() {
        let linear = |channel: u8| (f64::from(channel) / 255.0).powf(2.2);
        for RGBColor(r, g, b) in &PALETTE[..LINE_COLORS] {
            let luminance = 0.2126 * linear(*r) + 0.7152 * linear(*g) + 0.0722 * linear(*b);
            assert!(1.05 / (luminance + 0.05) >= 3.0, "{r} {g} {b}");
        }
    }

    #[test]
    fn lines_of_one_colour_differ_in_their_dashes_or_marks() {
        let n = LINE_COLORS * DASHES.len() * MARKS.len();
        let differ = |line| (0..line).all(|other| LineStyle::of(other) != LineStyle::of(line));
        assert!((0..n).all(differ));
    }

    #[test]
    fn a_legend_takes_the_rows_that_its_names_need() {
        let height = |length: usize| {
            let names = vec!["x".repeat(length); 5];
            legend_height(names.iter().map(String::as_str), 900)
        };
        assert!(height(5) < height(40));
        assert!(height(40) < height(400));
    }
}
