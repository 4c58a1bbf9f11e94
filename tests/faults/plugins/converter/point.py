"""Makes points of readings, as the aggregator influxdb takes them."""

import karez


class Config(karez.ConverterConfig):
    pass


class Converter(karez.Converter[Config]):
    def convert_many(self, records):
        return [
            {
                "measurement": "reading",
                "tags": {"point": record["name"]},
                "fields": {"value": record["value"]},
                "time": record["tick"],
                "_karez": {"category": "points"},
            }
            for record in records
        ]
