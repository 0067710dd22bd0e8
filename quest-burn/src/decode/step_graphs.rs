use burn::tensor::{Graph, Tensor};

pub(super) type StepGraph<'a> = Graph<Tensor<2>, Box<dyn FnMut() -> Tensor<2> + 'a>>;

/// The recordings of a step.
pub(super) struct StepGraphs<'a> {
    /// The step that chooses the pages that it reads.
    choosing: StepGraph<'a>,
    /// That which reads what was chosen before, of a model whose choices serve several steps.
    keeping: Option<StepGraph<'a>>,
    /// Whether the last replay was of the second.
    has_kept: bool,
}

impl<'a> StepGraphs<'a> {
    pub(super) fn new(choosing: StepGraph<'a>, keeping: Option<StepGraph<'a>>) -> Self {
        Self {
            choosing,
            keeping,
            has_kept: false,
        }
    }

    /// The recording to replay next.
    pub(super) fn next(&mut self, chooses: bool) -> &mut StepGraph<'a> {
        self.has_kept = !chooses && self.keeping.is_some();
        match &mut self.keeping {
            Some(keeping) if !chooses => keeping,
            _ => &mut self.choosing,
        }
    }

    /// The recording that was replayed last, or the first one.
    pub(super) fn last(&self) -> &StepGraph<'a> {
        match &self.keeping {
            Some(keeping) if self.has_kept => keeping,
            _ => &self.choosing,
        }
    }
}
