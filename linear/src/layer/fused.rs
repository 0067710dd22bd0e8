//! A layer in one launch or in native code, with the norm before it and what comes after it.

use burn::{nn::RmsNorm, tensor::Tensor};

use super::InferenceLinear;
#[cfg(feature = "flex")]
use super::native;
#[cfg(feature = "cube")]
use super::{LinearWeight, linear::gated};
#[cfg(feature = "cube")]
use crate::kernels;

/// Times that packed weights are read for more rows than a launch takes. Beyond, weights that are made whole
/// once move fewer bytes.
#[cfg(feature = "cube")]
const MAX_TURNS: usize = 3;

impl InferenceLinear {
    /// Native code, or the kernel for a few rows, where they run.
    #[cfg_attr(not(any(feature = "cube", feature = "flex")), allow(unused_variables))]
    pub(super) fn forward_fused(
        &self,
        rows: &Tensor<2>,
        norm: Option<&RmsNorm>,
        residual: Option<&Tensor<2>>,
        gated: bool,
    ) -> Option<Tensor<2>> {
        if let Some(observer) = &self.observer {
            if norm.is_some() || residual.is_some() || gated {
                // Once the rows are normed the layer is applied to them alone.
                return None;
            }
            observer.observe(rows.clone());
        }
        #[cfg(feature = "flex")]
        if native::takes(&self.weight, rows) {
            let layer = native::Layer {
                weight: &self.weight,
                bias: self.bias.as_ref(),
                norm,
                residual,
                gated,
                rounding: self.rounding,
            };
            return Some(layer.forward(rows.clone()));
        }
        #[cfg(feature = "cube")]
        {
            self.forward_few(rows, norm, residual, gated)
        }
        #[cfg(not(feature = "cube"))]
        {
            None
        }
    }

    /// The kernel for a few rows, where it runs.
    #[cfg(feature = "cube")]
    fn forward_few(
        &self,
        rows: &Tensor<2>,
        norm: Option<&RmsNorm>,
        residual: Option<&Tensor<2>>,
        gated: bool,
    ) -> Option<Tensor<2>> {
        let [m, d_input] = rows.dims();
        let norm = norm.map(|norm| (norm.gamma.val(), norm.epsilon));
        let dtype = self.weight.dtype();
        let runs = m <= kernels::linear::max_rows(&rows.device(), dtype, d_input)
            && rows.dtype() == dtype
            && (norm.as_ref()).is_none_or(|(gamma, _)| gamma.dtype() == rows.dtype())
            && residual.is_none_or(|residual| residual.dtype() == rows.dtype())
            && kernels::device::supports(&rows.device(), rows.dtype(), 1);
        if !runs {
            return None;
        }
        if let LinearWeight::Sparse(weight) = &self.weight {
            // Several rows read all channels.
            return (m == 1).then(|| {
                kernels::linear::sparse_gemv(
                    rows.clone(),
                    norm,
                    weight.kernel_weight(),
                    self.bias.clone(),
                    residual.cloned(),
                    gated,
                )
            });
        }
        if let LinearWeight::Stacked(parts) = &self.weight {
            return Some(self.forward_stacked(parts, rows.clone(), norm, residual, gated));
        }
        let packed = match &self.weight {
            LinearWeight::Quantized(weight) => Some(weight.packed().into()),
            LinearWeight::Blocks(weight) if m <= kernels::linear::MAX_ROWS => {
                Some(weight.kernel_weight()?)
            }
            _ => None,
        };
        let product = |weight, rows, residual| {
            kernels::linear::gemv(
                rows,
                norm.clone(),
                weight,
                self.bias.clone(),
                residual,
                gated,
            )
        };
        if let Some(packed) = packed {
            let at_once = kernels::linear::packed_rows(&packed, dtype, norm.is_some(), m);
            if m <= at_once {
                return Some(product(packed, rows.clone(), residual.cloned()));
            }
            if m <= MAX_TURNS * at_once {
                let turns = (0..m).step_by(at_once).map(|first| {
                    let of_turn =
                        |rows: &Tensor<2>| rows.clone().narrow(0, first, at_once.min(m - first));
                    product(packed.clone(), of_turn(rows), residual.map(of_turn))
                });
                return Some(Tensor::cat(turns.collect(), 0));
            }
        }
        let whole = self.weight.dequantize().into();
        Some(product(whole, rows.clone(), residual.cloned()))
    }

    /// The outputs of each part by a launch of its own.
    #[cfg(feature = "cube")]
    fn forward_stacked(
        &self,
        parts: &[LinearWeight],
        rows: Tensor<2>,
        norm: Option<(Tensor<1>, f64)>,
        residual: Option<&Tensor<2>>,
        gated: bool,
    ) -> Tensor<2> {
        let rows = match norm {
            Some((gamma, epsilon)) => kernels::rms_norm(rows, gamma, epsilon),
            None => rows,
        };
        let parts = parts.iter().map(|weight| {
            let part = Self::with_weight(weight.clone(), None);
            part.forward(rows.clone())
        });
        let mut outputs = Tensor::cat(parts.collect(), 1);
        if let Some(bias) = &self.bias {
            outputs = outputs + bias.clone().unsqueeze();
        }
        if gated {
            outputs = self::gated(outputs);
        }
        match residual {
            Some(residual) => residual.clone() + outputs,
            None => outputs,
        }
    }
}
