"""What finished and running runs show: tables, pictures and one offline HTML page that compares runs."""
