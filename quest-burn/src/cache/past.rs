use burn::tensor::Tensor;

use super::Step;

impl Step {
    /// Whole pages that a sequence had before this pass. The page that its new tokens begin in is not among
    /// them, and a sequence that gains no token has none.
    pub fn past_pages(&self, sequence: usize) -> usize {
        match self.new_tokens(sequence) {
            0 => 0,
            _ => self.starts()[sequence] / self.page_size(),
        }
    }

    /// Each sequence `times` over, as it was when it had its [whole pages](Self::past_pages) and nothing
    /// behind them: what operations take that score these pages and choose among them.
    pub(crate) fn past(&self, times: usize) -> Self {
        let batch = self.batch();
        let sequences = (0..batch).flat_map(|sequence| std::iter::repeat_n(sequence, times));
        let lengths = sequences
            .clone()
            .map(|sequence| self.past_pages(sequence) * self.page_size());
        let lengths = lengths.collect::<Vec<_>>();
        let pages = sequences.map(|sequence| {
            let n = self.past_pages(sequence);
            self.pages(sequence)[..n].to_vec()
        });
        let page_table = self.device_page_table().clone();
        let [_, max_pages] = page_table.dims();
        let page_table: Tensor<3, _> = page_table.unsqueeze_dim(1);
        let page_table = page_table
            .expand([batch, times, max_pages])
            .reshape([batch * times, max_pages]);
        // The last token of the past counts as the newest one.
        let starts = lengths.iter().map(|length| length.saturating_sub(1));
        let starts = starts.collect();
        let pages = pages.collect();
        Self::new(
            self.phase(),
            self.page_size(),
            starts,
            lengths,
            pages,
            page_table,
        )
    }
}
