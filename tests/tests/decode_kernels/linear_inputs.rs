//! Random inputs of a linear layer, and its outputs as sums on the host.

use burn::tensor::{DType, Device, Tensor};
use quest_burn_linear::kernels;
use rand::rngs::StdRng;

use super::{EPSILON, floats, random};

/// What goes before and after the products of a linear layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    pub(super) normed: bool,
    pub(super) biased: bool,
    pub(super) gated: bool,
    pub(super) added: bool,
}

pub(super) const AROUND: [Around; 5] = {
    let nothing = Around {
        normed: false,
        biased: false,
        gated: false,
        added: false,
    };
    [
        nothing,
        Around {
            biased: true,
            added: true,
            ..nothing
        },
        Around {
            gated: true,
            ..nothing
        },
        Around {
            normed: true,
            ..nothing
        },
        Around {
            normed: true,
            biased: true,
            gated: true,
            added: true,
        },
    ]
};

/// Random inputs of a linear layer of `n` outputs, on the device and on the host.
pub(super) struct LinearInputs {
    around: Around,
    k: usize,
    n: usize,
    rows: (Tensor<2>, Vec<f64>),
    gamma: Tensor<1>,
    bias: (Tensor<1>, Vec<f64>),
    residual: (Tensor<2>, Vec<f64>),
}

impl LinearInputs {
    pub(super) fn new(
        [m, k, n]: [usize; 3],
        around: Around,
        (device, dtype): (&Device, DType),
        rng: &mut StdRng,
    ) -> Self {
        let columns = if around.gated { n / 2 } else { n };
        Self {
            around,
            k,
            n,
            rows: random([m, k], dtype, device, rng),
            gamma: random([k], dtype, device, rng).0,
            bias: random([n], dtype, device, rng),
            residual: random([m, columns], dtype, device, rng),
        }
    }

    pub(super) fn rows(&self) -> Tensor<2> {
        self.rows.0.clone()
    }

    pub(super) fn norm(&self) -> Option<(Tensor<1>, f64)> {
        let norm = (self.gamma.clone(), EPSILON);
        self.around.normed.then_some(norm)
    }

    pub(super) fn bias(&self) -> Option<Tensor<1>> {
        self.around.biased.then(|| self.bias.0.clone())
    }

    pub(super) fn residual(&self) -> Option<Tensor<2>> {
        self.around.added.then(|| self.residual.0.clone())
    }

    /// The rows that weights are multiplied with: normed, if they are, and rounded as the kernel rounds, as a gate
    /// multiplies what differs.
    pub(super) fn multiplied(&self) -> Vec<f64> {
        match self.norm() {
            Some((gamma, epsilon)) => floats(&kernels::rms_norm(self.rows(), gamma, epsilon)),
            None => self.rows.1.clone(),
        }
    }

    /// What the layer gives with weights `[n, k]`.
    pub(super) fn expected(&self, weight: &[f64]) -> Vec<f64> {
        let Self { around, k, n, .. } = *self;
        let x = self.multiplied();
        let columns = if around.gated { n / 2 } else { n };
        let product = |row: usize, channel: usize| {
            let x = &x[row * k..][..k];
            let w = &weight[channel * k..][..k];
            let sum = x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
            sum + if around.biased {
                self.bias.1[channel]
            } else {
                0.0
            }
        };
        let outputs = self.residual.1.iter().enumerate().map(|(i, r)| {
            let (row, channel) = (i / columns, i % columns);
            let mut value = product(row, channel);
            if around.gated {
                value = value / (1.0 + (-value).exp()) * product(row, columns + channel);
            }
            value + if around.added { *r } else { 0.0 }
        });
        outputs.collect()
    }
}
