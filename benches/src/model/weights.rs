use std::str::FromStr;

use burn::tensor::DType;
use quest_burn::inference::WeightFormat;

use crate::parse;

/// How the weights of a model are kept: in an element type, or those of its layers' projections as they
/// are stored or in fewer bits and the others in the default element type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weights {
    /// The element type, where it is given.
    pub dtype: Option<DType>,
    /// The form of the projections' weights.
    pub format: WeightFormat,
}

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let format = match text {
            "stored" => WeightFormat::Stored,
            "int8" => WeightFormat::Int8,
            "int4" => WeightFormat::Int4,
            _ => {
                let dtype = parse::float_dtype(text);
                let expected =
                    |_| format!("expected f32, f16, bf16, stored, int8 or int4, found {text}");
                return Ok(Self {
                    dtype: Some(dtype.map_err(expected)?),
                    format: WeightFormat::Full,
                });
            }
        };
        Ok(Self {
            dtype: None,
            format,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_an_element_type_or_a_form() {
        let of = |text: &str| text.parse::<Weights>().map(|w| (w.dtype, w.format));
        assert_eq!(of("bf16"), Ok((Some(DType::BF16), WeightFormat::Full)));
        assert_eq!(of("int8"), Ok((None, WeightFormat::Int8)));
        assert_eq!(of("int4"), Ok((None, WeightFormat::Int4)));
        assert_eq!(of("stored"), Ok((None, WeightFormat::Stored)));
        let expected = "expected f32, f16, bf16, stored, int8 or int4, found int3";
        assert_eq!(of("int3"), Err(expected.into()));
    }
}
