//! JSON whose nesting is bounded, so that reading it cannot fail: a reader that gives up at a
//! depth would give up the whole list for the sake of one object in it.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Number, Value};

/// As deep as manifests may nest.
const MAX_DEPTH: usize = 64;

/// A JSON value without its `metadata.managedFields`, which are often half of an object and read
/// by nobody here.
#[derive(Debug, Clone)]
pub(super) struct Bounded {
    pub(super) value: Value,
    /// Something deeper than the bound was left out.
    pub(super) is_cut: bool,
}

impl<'de> Deserialize<'de> for Bounded {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut is_cut = false;
        let level = Level {
            depth: 0,
            is_cut: &mut is_cut,
        };
        let value = level.deserialize(from)?;
        Ok(Self { value, is_cut })
    }
}

/// A value at some depth.
struct Level<'a> {
    depth: usize,
    is_cut: &'a mut bool,
}

impl Level<'_> {
    fn below(&mut self) -> Level<'_> {
        Level {
            depth: self.depth + 1,
            is_cut: self.is_cut,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        if self.depth < MAX_DEPTH {
            return from.deserialize_any(self);
        }
        *self.is_cut = true;
        from.deserialize_ignored_any(IgnoredAny)?;
        Ok(Value::Null)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self.below())? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if self.depth == 1 && key == "managedFields" {
                map.next_value::<IgnoredAny>()?;
            } else {
                let value = map.next_value_seed(self.below())?;
                fields.insert(key, value);
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_too_deep_is_left_out_and_the_rest_is_read() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!("[{{\"a\": {deep}}}, {{\"a\": [1, -1, 1.5, \"x\", true, null]}}]");
        let items: Vec<Bounded> = serde_json::from_str(&text).unwrap();
        assert!(items[0].is_cut);
        assert!(!items[1].is_cut);
        assert_eq!(items[1].value, json!({"a": [1, -1, 1.5, "x", true, null]}));
    }

    #[test]
    fn managed_fields_are_dropped() {
        let text = r#"{"metadata": {"name": "x", "managedFields": [{}]}, "spec": {"a": {"managedFields": 1}}}"#;
        let item: Bounded = serde_json::from_str(text).unwrap();
        let expected = json!({"metadata": {"name": "x"}, "spec": {"a": {"managedFields": 1}}});
        assert_eq!(item.value, expected);
    }
}
