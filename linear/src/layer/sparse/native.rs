//! [`SparseWeight`] on the Flex backend: channels that are skipped are not read.

use burn::tensor::{DType, Int, Tensor};

use super::{QuantizedWeight, SparseWeight, StoredChannels};
use crate::{
    flex::{is_contiguous, primitive, runs_on},
    native::{ActiveChannel, Channels, add_channels, channel_product},
};

/// Whether this code multiplies rows with such weights.
pub(in crate::layer) fn reads(weight: &SparseWeight) -> bool {
    let is_read = |tensor: &Tensor<2>| runs_on(&tensor.device()) && is_contiguous(tensor);
    let factors = weight.low_rank.as_ref();
    let stored = match &weight.stored {
        StoredChannels::Full(channels) => is_read(channels),
        StoredChannels::Int8(channels) => {
            cfg!(target_endian = "little")
                && is_read(channels.scales())
                && is_contiguous(channels.words())
        }
    };
    let factors = factors.is_none_or(|factors| is_read(&factors.down) && is_read(&factors.up));
    stored && factors && runs_on(&weight.norms.device()) && is_contiguous(&weight.norms)
}

/// `[m, d_output]`: of a row on its own by the channels that matter to it, of several by all.
pub(in crate::layer) fn products(weight: &SparseWeight, rows: &[f32]) -> Vec<f32> {
    let [d_output, d_input] = weight.dims();
    if rows.len() > d_input {
        return with_stored(weight, |channels| {
            channel_product(rows, [d_input, d_output], channels)
        });
    }
    let norms = primitive(weight.norms.clone());
    let norms = norms.as_slice::<f32>().expect(CONTIGUOUS);
    // What is no number has a part in the sum.
    let matters = |channel: usize, value: f32| {
        let score = value.abs() * norms[channel];
        score > weight.threshold || score.is_nan()
    };
    let channels = |is_active| {
        let values = rows.iter().copied().enumerate();
        let some = values.filter(move |&(i, x)| matters(i, x) == is_active);
        some.map(|(channel, value)| ActiveChannel { channel, value })
    };
    let active: Vec<_> = channels(true).collect();
    let mut sums = vec![0.0; d_output];
    with_stored(weight, |channels| {
        add_channels(&active, channels, &mut sums);
    });
    if let Some(factors) = &weight.low_rank {
        let rest: Vec<_> = channels(false).collect();
        let mut inner = vec![0.0; factors.rank()];
        with_full(&factors.down, |down| add_channels(&rest, down, &mut inner));
        let inner = inner.into_iter().enumerate();
        let inner: Vec<_> = inner
            .map(|(channel, value)| ActiveChannel { channel, value })
            .collect();
        with_full(&factors.up, |up| add_channels(&inner, up, &mut sums));
    }
    sums
}

fn with_stored<R>(weight: &SparseWeight, run: impl FnOnce(Channels<'_>) -> R) -> R {
    match &weight.stored {
        StoredChannels::Full(channels) => with_full(channels, run),
        StoredChannels::Int8(channels) => with_int8(channels, run),
    }
}

const CONTIGUOUS: &str = "the caller asks whether weights are contiguous";

fn with_full<R>(channels: &Tensor<2>, run: impl FnOnce(Channels<'_>) -> R) -> R {
    let channels = primitive(channels.clone());
    run(match channels.dtype() {
        DType::F16 => Channels::F16(channels.as_slice().expect(CONTIGUOUS)),
        DType::BF16 => Channels::BF16(channels.as_slice().expect(CONTIGUOUS)),
        _ => Channels::F32(channels.as_slice().expect(CONTIGUOUS)),
    })
}

fn with_int8<R>(channels: &QuantizedWeight, run: impl FnOnce(Channels<'_>) -> R) -> R {
    let words: Tensor<2, Int> = channels.words().clone();
    let (words, scales) = (primitive(words), primitive(channels.scales().clone()));
    run(Channels::Int8 {
        bytes: bytemuck::cast_slice(words.as_slice::<i32>().expect(CONTIGUOUS)),
        group: channels.group(),
        scales: scales.as_slice().expect(CONTIGUOUS),
    })
}
