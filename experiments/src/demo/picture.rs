use std::fmt::Write;

use super::Demo;

/// How much of what a column stands for was chosen: nothing, little, .. everything.
const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];

/// A strip of pages for each list, from the beginning of the text to its end, with the pages of the
/// passkey marked below; no line is longer than `width` characters.
///
/// A column stands for one page, or for several where there are more pages than columns. It is as
/// dark as the share of them that was chosen for any token of the answer.
pub fn page_map(demo: &Demo, width: usize) -> String {
    let labels = demo
        .chosen
        .iter()
        .map(|list| match &list.pages {
            Some(_) => format!("layer {} head {} ", list.layer, list.head),
            None => format!("layer {} ", list.layer),
        })
        .collect::<Vec<_>>();
    let label = labels.iter().map(String::len).max().unwrap_or(0);
    let columns = width.saturating_sub(label).clamp(1, demo.n_pages);
    let column = |page: usize| page * columns / demo.n_pages;

    let mut map = String::new();
    for (list, name) in demo.chosen.iter().zip(&labels) {
        let strip = match &list.pages {
            Some(steps) => {
                let mut chosen = vec![false; demo.n_pages];
                steps.iter().flatten().for_each(|&page| chosen[page] = true);
                strip(&chosen, columns, column)
            }
            None => "every page".to_owned(),
        };
        writeln!(map, "{name:<label$}{strip}").expect("a string can be written to");
    }
    let mut mark = vec![' '; columns];
    for &page in &demo.passkey_pages {
        mark[column(page)] = '▲';
    }
    let mark = mark.into_iter().collect::<String>();
    write!(map, "{:<label$}{}", "passkey", mark.trim_end()).expect("a string can be written to");
    map
}

fn strip(chosen: &[bool], columns: usize, column: impl Fn(usize) -> usize) -> String {
    let mut counts = vec![(0, 0); columns];
    for (page, &chosen) in chosen.iter().enumerate() {
        let (pages, of_them) = &mut counts[column(page)];
        *pages += 1;
        *of_them += usize::from(chosen);
    }
    // The least that is chosen shows, and only everything is black.
    let shade = |(pages, chosen): (usize, usize)| match chosen {
        0 => SHADES[0],
        _ => SHADES[1 + chosen * (SHADES.len() - 2) / pages],
    };
    counts.into_iter().map(shade).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::ChosenPages;

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
        }
    }

    fn list(layer: usize, head: usize, steps: &[&[usize]]) -> ChosenPages {
        let steps = steps.iter().map(|pages| pages.to_vec()).collect();
        ChosenPages {
            layer,
            head,
            pages: Some(steps),
        }
    }

    #[test]
    fn with_room_for_every_page_a_column_is_a_page() {
        let dense = ChosenPages {
            layer: 0,
            head: 0,
            pages: None,
        };
        let lists = vec![dense, list(2, 0, &[&[0, 7], &[1, 7]]), list(2, 1, &[&[5]])];
        assert_eq!(
            page_map(&demo(8, vec![5, 6], lists), 80),
            "layer 0        every page\n\
             layer 2 head 0 ██·····█\n\
             layer 2 head 1 ·····█··\n\
             passkey             ▲▲"
        );
    }

    #[test]
    fn with_less_room_a_column_is_as_dark_as_its_share() {
        // 16 pages in 4 columns.
        let lists = vec![list(2, 0, &[&[0, 4, 5, 8, 9, 10], &[12, 13, 14, 15]])];
        let width = "layer 2 head 0 ".len() + 4;
        assert_eq!(
            page_map(&demo(16, vec![7], lists), width),
            "layer 2 head 0 ░▒▓█\n\
             passkey         ▲"
        );
    }

    #[test]
    fn a_terminal_without_room_still_gets_a_column() {
        let lists = vec![list(2, 0, &[&[0]])];
        let map = page_map(&demo(16, vec![7], lists), 0);
        assert_eq!(map.lines().next(), Some("layer 2 head 0 ░"));
    }
}
