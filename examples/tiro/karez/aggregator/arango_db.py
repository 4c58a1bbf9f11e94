from tiro.plugins.karez import ArangoAggregator as Aggregator
