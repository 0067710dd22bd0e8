//! Keywords of schemas. The compiler refuses some that it does not follow and passes over all that it does not know,
//! be it a misspelt one, whose answers would follow less than was asked for.

use serde_json::Value;

use super::Beyond;

/// Keywords that answers follow.
const FOLLOWED: [&str; 27] = [
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
];
/// Keywords that ask nothing of an answer, those of `OpenAPI` included, and so do all that begin with `x-`.
const ANNOTATIONS: [&str; 18] = [
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
];

/// Refuses a schema with a keyword that is neither.
pub(super) fn check(schema: &Value) -> Result<(), Beyond> {
    within(schema, "#")
}

/// Refuses keywords of the items of an array that the compiler passes over beside others: it takes a schema with
/// `additionalItems`, or with a list of `items`, for one of an old draft, which has no `prefixItems`, and
/// `additionalItems` only after such a list.
fn check_items(schema: &Value, path: &str) -> Result<(), Beyond> {
    let has_list = schema.get("items").is_some_and(Value::is_array);
    let has_additional = schema.get("additionalItems").is_some();
    let (found, beside) = match schema.get("prefixItems") {
        Some(_) if has_list => ("prefixItems", "beside a list of `items`"),
        Some(_) if has_additional => ("prefixItems", "beside `additionalItems`"),
        None if has_additional && !has_list => ("additionalItems", "without a list of `items`"),
        _ => return Ok(()),
    };
    Err(Beyond::Unsupported(format!(
        "{path}: expected `prefixItems` with a schema for `items`, found `{found}` {beside}"
    )))
}

/// `path` is where the schema is, as a reference would have it.
fn within(schema: &Value, path: &str) -> Result<(), Beyond> {
    check_items(schema, path)?;
    // The compiler says what is wrong with one that is neither an object nor true or false.
    for (name, value) in schema.as_object().into_iter().flatten() {
        let is_known =
            FOLLOWED.contains(&&**name) || ANNOTATIONS.contains(&&**name) || name.starts_with("x-");
        if !is_known {
            let found = name.chars().take(60).collect::<String>();
            let problem = format!("{path}: expected keywords that are supported, found `{found}`");
            return Err(Beyond::Unsupported(problem));
        }
        match &**name {
            "properties" | "patternProperties" | "$defs" | "definitions" => {
                for (of, schema) in value.as_object().into_iter().flatten() {
                    within(schema, &format!("{path}/{name}/{of}"))?;
                }
            }
            "additionalItems"
            | "additionalProperties"
            | "allOf"
            | "anyOf"
            | "items"
            | "oneOf"
            | "prefixItems" => match value {
                Value::Array(schemas) => {
                    for (i, schema) in schemas.iter().enumerate() {
                        within(schema, &format!("{path}/{name}/{i}"))?;
                    }
                }
                schema => within(schema, &format!("{path}/{name}"))?,
            },
            _ => (),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keywords_of_items_that_exclude_one_another_are_refused() {
        let refused = [
            json!({ "prefixItems": [true], "additionalItems": false }),
            json!({ "prefixItems": [true], "items": [true] }),
            json!({ "items": true, "additionalItems": false }),
            json!({ "properties": { "a": { "additionalItems": false } } }),
        ];
        for schema in refused {
            let error = check(&schema).unwrap_err();
            assert!(matches!(error, Beyond::Unsupported(text) if text.contains("`prefixItems`")));
        }
        for schema in [
            json!({ "prefixItems": [true], "items": false }),
            json!({ "items": [true], "additionalItems": false }),
        ] {
            assert_eq!(check(&schema), Ok(()), "{schema}");
        }
    }

    #[test]
    fn a_keyword_that_nobody_follows_is_named_with_its_place() {
        let named = |place: &str, keyword: &str| {
            Err(Beyond::Unsupported(format!(
                "{place}: expected keywords that are supported, found `{keyword}`"
            )))
        };
        for (schema, place, keyword) in [
            (
                json!({ "type": "string", "maxLenght": 3 }),
                "#",
                "maxLenght",
            ),
            (json!({ "not": {} }), "#", "not"),
            (
                json!({ "properties": { "a b": { "nullable": true } } }),
                "#/properties/a b",
                "nullable",
            ),
            (
                json!({ "items": { "anyOf": [true, { "uniqueItems": true }] } }),
                "#/items/anyOf/1",
                "uniqueItems",
            ),
            (
                json!({ "$defs": { "a": { "additionalProperties": { "if": {} } } } }),
                "#/$defs/a/additionalProperties",
                "if",
            ),
        ] {
            assert_eq!(check(&schema), named(place, keyword), "{schema}");
        }
    }

    #[test]
    fn what_is_no_schema_has_no_keywords() {
        let schema = json!({
            "properties": { "not": { "enum": [{ "not": 1 }], "default": { "if": 1 } } },
            "required": ["not"],
            "const": { "not": { "not": 1 } },
            "examples": [{ "not": 1 }],
            "x-order": { "not": 1 },
            "discriminator": { "propertyName": "kind", "mapping": {} },
            "additionalProperties": false,
        });
        assert_eq!(check(&schema), Ok(()));
        assert_eq!(check(&json!(3)), Ok(()));
    }
}
