use std::fmt::Write;

use super::{ChosenPages, Demo};

/// Shares of a column's pages that were chosen: none, few, .. all.
const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];

/// A strip of pages for each list, from the beginning of the text to its end, as they were chosen
/// for the token that retrieves the passkey; behind it how many of the passkey's pages are among
/// them, and below all strips where these pages are. No line is longer than `width` characters,
/// unless that is too few for a strip.
///
/// A column is one page, or several where there are more pages than columns. It is as dark as the share
/// of them that was chosen.
pub fn page_map(demo: &Demo, width: usize) -> String {
    let lines = demo.chosen.iter().map(|list| Line::new(demo, list));
    let lines = lines.collect::<Vec<_>>();
    let widest = |text: fn(&Line) -> &str| lines.iter().map(|line| text(line).len()).max();
    let label = widest(|line| &line.label).unwrap_or(0);
    let found = widest(|line| &line.found).unwrap_or(0);
    let columns = width.saturating_sub(label + found);
    let columns = columns.clamp(1, demo.n_pages);
    let column = |page: usize| page * columns / demo.n_pages;

    let mut map = String::new();
    for Line {
        label: name,
        chosen,
        found,
    } in &lines
    {
        let strip = match chosen {
            Some(chosen) => strip(chosen, columns, column),
            None => "every page".to_owned(),
        };
        let padding = columns.saturating_sub(strip.chars().count());
        let line = format!("{name:<label$}{strip}{:padding$}{found}", "");
        writeln!(map, "{}", line.trim_end()).expect("a string can be written to");
    }
    let mut mark = vec![' '; columns];
    for &page in &demo.passkey_pages {
        mark[column(page)] = '▲';
    }
    let mark = mark.into_iter().collect::<String>();
    write!(map, "{:<label$}{}", "passkey", mark.trim_end()).expect("a string can be written to");
    map
}

/// What is shown of a list.
struct Line {
    label: String,
    /// Whether each page was chosen; nothing where every one was.
    chosen: Option<Vec<bool>>,
    found: String,
}

impl Line {
    fn new(demo: &Demo, list: &ChosenPages) -> Self {
        let ChosenPages { layer, head, pages } = list;
        let Some(steps) = pages else {
            return Self {
                label: format!("layer {layer} "),
                chosen: None,
                found: String::new(),
            };
        };
        let mut chosen = vec![false; demo.n_pages];
        for &page in &steps[demo.retrieving_token] {
            chosen[page] = true;
        }
        let passkey = &demo.passkey_pages;
        let found = passkey.iter().filter(|&&page| chosen[page]).count();
        Self {
            label: format!("layer {layer} head {head} "),
            chosen: Some(chosen),
            found: format!(" {found} of {}", passkey.len()),
        }
    }
}

fn strip(chosen: &[bool], columns: usize, column: impl Fn(usize) -> usize) -> String {
    let mut counts = vec![(0, 0); columns];
    for (page, &chosen) in chosen.iter().enumerate() {
        let (pages, of_them) = &mut counts[column(page)];
        *pages += 1;
        *of_them += usize::from(chosen);
    }
    // Even one chosen page shows, and a column is black only if all of its pages were chosen.
    let shade = |(pages, chosen): (usize, usize)| match chosen {
        0 => SHADES[0],
        _ => SHADES[1 + chosen * (SHADES.len() - 2) / pages],
    };
    counts.into_iter().map(shade).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo(n_pages: usize, passkey_pages: Vec<usize>, chosen: Vec<ChosenPages>) -> Demo {
        Demo {
            answer_dense: String::new(),
            answer_quest: String::new(),
            number_dense: None,
            number_quest: None,
            passkey: 1,
            tokens: 0,
            budget: 0,
            share_read: 0.0,
            share_read_sparse_layers: 0.0,
            ms_per_token_dense: 0.0,
            ms_per_token_quest: 0.0,
            prefill_s: 0.0,
            passkey_pages,
            n_pages,
            chosen,
            retrieving_token: 1,
        }
    }

    /// A list of the two steps of an answer, the second of which retrieves.
    fn list(layer: usize, head: usize, pages: &[usize]) -> ChosenPages {
        ChosenPages {
            layer,
            head,
            pages: Some(vec![vec![3], pages.to_vec()]),
        }
    }

    #[test]
    fn with_room_for_every_page_a_column_is_a_page() {
        let dense = ChosenPages {
            layer: 0,
            head: 0,
            pages: None,
        };
        let lists = vec![dense, list(2, 0, &[0, 1, 7]), list(2, 1, &[5])];
        assert_eq!(
            page_map(&demo(8, vec![5, 6], lists), 80),
            "layer 0        every page\n\
             layer 2 head 0 ██·····█ 0 of 2\n\
             layer 2 head 1 ·····█·· 1 of 2\n\
             passkey             ▲▲"
        );
    }

    #[test]
    fn with_less_room_a_column_is_as_dark_as_its_share() {
        // 16 pages in 4 columns.
        let lists = vec![list(2, 0, &[0, 4, 5, 8, 9, 10, 12, 13, 14, 15])];
        let width = "layer 2 head 0 ".len() + 4 + " 0 of 1".len();
        assert_eq!(
            page_map(&demo(16, vec![7], lists), width),
            "layer 2 head 0 ░▒▓█ 0 of 1\n\
             passkey         ▲"
        );
    }

    #[test]
    fn a_terminal_without_room_still_gets_a_column() {
        let lists = vec![list(2, 0, &[0])];
        let map = page_map(&demo(16, vec![7], lists), 0);
        assert_eq!(map.lines().next(), Some("layer 2 head 0 ░ 0 of 1"));
    }
}
